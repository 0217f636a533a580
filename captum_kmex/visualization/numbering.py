"""Where the numbers of segments stand in a picture, each to be read and none upon another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["Label", "number_places"]

_STEPS = 40  # of each side, at which a number may stand that has no room in its segment

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Label:
    """One number's place, as shares of the picture's width and height from its upper left.

    Attributes:
        place: Its middle, x and y.
        anchor: A point of its segment, away from ``place`` where the number stands outside.
    """

    place: tuple[float, float]
    anchor: tuple[float, float]


def number_places(
    segments: NDArray[np.int64], order: Sequence[int], room: tuple[float, float]
) -> list[Label]:
    """Return a place for the number of each segment, in their order.

    A number stands as deep in its segment as the ones before leave room, or else at the free
    place nearest to it.

    Args:
        segments: Segment of each cell (h, w).
        order: The segments that are numbered.
        room: Width and height of a number, as shares of the picture's.
    """
    taken = np.empty((0, 2))
    labels = []
    for segment in order:
        mask = segments == segment
        inside = _inner_points(mask)
        moved = _moved_inside(inside, room)
        free = _free(moved, taken, room) & _holds(mask, moved)
        place = moved[free.argmax()] if free.any() else _nearest_free(inside[0], taken, room)
        is_outside = bool((np.abs(place - inside[0]) > np.array(room) / 2).any())
        anchor = inside[0] if is_outside and not free.any() else place
        taken = np.concatenate([taken, place[None]])
        labels.append(Label((place[0], place[1]), (anchor[0], anchor[1])))
    return labels


def _inner_points(mask: NDArray[np.bool_]) -> Points:
    """Return a segment's cells (M, 2), the farthest from its border first, as shares x, y."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.nonzero(mask)
    deepest = np.argsort(-depth[y, x], kind="stable")
    height, width = mask.shape
    return (np.stack([x, y], 1)[deepest] + 0.5) / (width, height)


def _holds(mask: NDArray[np.bool_], points: Points) -> NDArray[np.bool_]:
    """Return which points (M, 2) lie in a segment."""
    x, y = (points * mask.shape[::-1]).astype(int).T
    return np.asarray(mask[y, x])


def _moved_inside(points: Points, room: tuple[float, float]) -> Points:
    half = np.minimum(np.array(room) / 2, 0.5)
    return np.clip(points, half, 1 - half)


def _free(points: Points, taken: Points, room: tuple[float, float]) -> NDArray[np.bool_]:
    """Return which places (M,) touch none of the taken ones."""
    apart: NDArray[np.bool_] = np.abs(points[:, None] - taken) >= np.array(room)  # (M, T, 2)
    return np.asarray(np.all(np.any(apart, 2), 1))


def _nearest_free(anchor: Points, taken: Points, room: tuple[float, float]) -> Points:
    ticks = (np.arange(_STEPS) + 0.5) / _STEPS
    grid = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)
    grid = grid[np.square(grid - anchor).sum(1).argsort(kind="stable")]
    grid = _moved_inside(grid, room)
    return np.asarray(grid[_free(grid, taken, room).argmax()])
