"""Shapes on the figures' grid, in integer geometry."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["SIZE", "Colour", "Mask", "Picture", "box", "ellipse", "polygon"]

SIZE = 56
Mask = NDArray[np.bool_]
Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]
_Y, _X = np.mgrid[:SIZE, :SIZE]


def box(left: int, top: int, right: int, bottom: int) -> Mask:
    """Return the pixels of a box, its edges included."""
    inside: Mask = (left <= _X) & (right >= _X) & (top <= _Y) & (bottom >= _Y)
    return inside


def ellipse(x: int, y: int, a: int, b: int) -> Mask:
    """Return the pixels of an ellipse with half axes a and b, its edge included."""
    inside: Mask = ((_X - x) * b) ** 2 + ((_Y - y) * a) ** 2 <= (a * b) ** 2
    return inside


def polygon(*corners: tuple[int, int]) -> Mask:
    """Return the pixels of a convex polygon, its edges included."""
    sides = [
        (x1 - x0) * (_Y - y0) - (y1 - y0) * (_X - x0)
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True)
    ]
    inside: Mask = np.all([s >= 0 for s in sides], 0) | np.all([s <= 0 for s in sides], 0)
    return inside
