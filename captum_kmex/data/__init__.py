"""Data sets and loaders, read alike in every pass and on every machine."""
