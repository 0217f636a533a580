"""The nearest training patches of each prototype: sample index, box, distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Representatives", "cell_boxes"]


@dataclass(frozen=True, eq=False)
class Representatives:
    """The m nearest training patches of each of K prototypes, at most one an image.

    Attributes:
        indices: Integer tensor (K, m), data-set indices; -1 where there are fewer than m.
        boxes: Integer tensor (K, m, 4), the grid cell as x0, y0, x1, y1 in input pixels; (K, m, 2)
            of signals, (K, m, 6) of volumes.
        distances: Float tensor (K, m), in the prototypes' space; inf where there is none.
    """

    indices: Tensor
    boxes: Tensor
    distances: Tensor


def cell_boxes(cells: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
    """Return the boxes (..., 2 d) of grid cells in input pixels.

    A box is where the cell begins and then where it ends, the last dimension first: x0, y0, x1,
    y1 of a picture.

    Args:
        cells: Integer tensor of flat cell indices.
        grid: Cells along each of d dimensions: rows and columns.
        size: Input pixels along each: height and width.
    """
    begin, end = [], []
    for count, pixels in zip(reversed(grid), reversed(size), strict=True):
        position, cells = cells % count, cells // count
        begin.append(position * pixels // count)
        end.append(-(-(position + 1) * pixels // count))
    return torch.stack([*begin, *end], -1)
