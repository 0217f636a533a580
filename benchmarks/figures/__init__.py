"""Figures of the pages: intervals of every method, the paper's figures, times and memory."""
