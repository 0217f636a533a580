"""Evidence that is measured: parts of an image are removed, and the network is run again."""
