"""Files and folders that no kill can lose, and locks."""
