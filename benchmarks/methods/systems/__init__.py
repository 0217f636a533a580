"""The systems of the literature, written from their papers, and what they share."""
