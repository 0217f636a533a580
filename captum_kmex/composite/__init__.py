"""Stacked layers, and the nearest prototype of each of their pixels (eqs. 6-9)."""
