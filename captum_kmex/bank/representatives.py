"""The nearest training patches of each prototype: sample index, box, distance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Representatives", "cell_boxes"]


@dataclass(frozen=True, eq=False)
class Representatives:
    """The m nearest training patches of each of K prototypes, at most one an image.

    Attributes:
        indices: Integer tensor (K, m), data-set indices; -1 where there are fewer than m.
        boxes: Integer tensor (K, m, 4), the grid cell as x0, y0, x1, y1 in input pixels.
        distances: Float tensor (K, m), in the prototypes' space; inf where there is none.
    """

    indices: Tensor
    boxes: Tensor
    distances: Tensor


def cell_boxes(cells: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return the boxes (..., 4) of grid cells as x0, y0, x1, y1 in input pixels.

    Args:
        cells: Integer tensor of flat cell indices.
        grid: Rows and columns of the grid.
        size: Height and width of the input.
    """
    y, x = cells // grid[1], cells % grid[1]

    def edges(position: Tensor, count: int, pixels: int) -> tuple[Tensor, Tensor]:
        return position * pixels // count, -(-(position + 1) * pixels // count)

    x0, x1 = edges(x, grid[1], size[1])
    y0, y1 = edges(y, grid[0], size[0])
    return torch.stack([x0, y0, x1, y1], -1)
