"""The fit: passes over a data set of any size in bounded memory."""
