"""Models, weights and images from names and files, for the command line."""
