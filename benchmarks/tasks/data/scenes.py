"""What is behind the figures: a gradient between dull colours, and objects that mean nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.tasks.data.shapes import SIZE, Colour, Mask, Picture, box, ellipse, polygon

__all__ = ["MOST_OBJECTS", "Pick", "Scene", "choose", "draw_scene"]

MOST_OBJECTS = 10
Pick = Callable[[int, int], int]  # draws a whole number between two, both included

_BACKDROP: tuple[Colour, ...] = (
    (150, 150, 150), (175, 150, 120), (190, 150, 150), (135, 150, 165), (140, 150, 120),
    (125, 125, 140), (165, 165, 150), (150, 125, 110),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Scene:
    """A backdrop and the objects painted on it, back to front.

    Attributes:
        backdrop: The gradient alone, (H, W, 3).
        objects: Pixels (H, W) and colour of each object.
    """

    backdrop: Picture
    objects: tuple[tuple[Mask, Colour], ...]

    def picture(self, drop: Collection[int] = ()) -> Picture:
        """Return the scene (H, W, 3) without the objects of these numbers."""
        painted = self.backdrop.copy()
        for i, (mask, colour) in enumerate(self.objects):
            if i not in drop:
                painted[mask] = colour
        return painted

    def visible(self) -> list[Mask]:
        """Return the pixels (H, W) of each object that no later one covers."""
        masks, covered = [], np.zeros((SIZE, SIZE), bool)
        for mask, _ in reversed(self.objects):
            masks.append(mask & ~covered)
            covered |= mask
        return masks[::-1]


def draw_scene(pick: Pick, dull: Sequence[Colour], bright: Sequence[Colour]) -> Scene:
    """Return a gradient between two backdrop colours under clutter and decoys.

    Args:
        pick: Draws whole numbers.
        dull: Colours of the clutter, besides those of backdrops.
        bright: Colours of the decoys.
    """
    above, below = (np.array(choose(_BACKDROP, pick)) for _ in range(2))
    rows = np.arange(SIZE)[:, None, None]
    backdrop = ((above * (SIZE - 1 - rows) + below * rows) // (SIZE - 1)).astype(np.uint8)
    objects = []
    for colours, count in (((*_BACKDROP, *dull), pick(3, 6)), (bright, pick(1, 4))):
        for _ in range(count):
            colour = choose(colours, pick)
            objects.append((_scrap(pick), colour))
    return Scene(backdrop.repeat(SIZE, 1), tuple(objects))


def choose(colours: Sequence[Colour], pick: Pick) -> Colour:
    """Return one of the colours."""
    return colours[pick(0, len(colours) - 1)]


def _scrap(pick: Pick) -> Mask:
    """Return a disc, a box or a triangle somewhere, about as large as a part."""
    x, y, a, b = pick(0, SIZE - 1), pick(0, SIZE - 1), pick(3, 5), pick(3, 5)
    return (
        lambda: ellipse(x, y, a, b),
        lambda: box(x - a, y - b, x + a, y + b),
        lambda: polygon((x - a, y - b), (x + a, y - pick(0, b)), (x + pick(-a, a), y + b)),
    )[pick(0, 2)]()
