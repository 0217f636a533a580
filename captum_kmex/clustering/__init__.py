"""k-means: of many small problems at once, and of as many rows as memory holds."""
