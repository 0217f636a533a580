"""Which parts of an image are removed: crossing partitions of its grid, of any dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Coalitions", "coalitions", "patches"]

_PATCHES = 20  # of a grid, about


@dataclass(frozen=True, eq=False)
class Coalitions:
    """Sets of cells that are kept, all others removed.

    Attributes:
        kept: Boolean tensor ``(M, *grid)``: nothing, everything, then all but each part, then each
            part alone.
        segments: How many parts the first partition has; they come first.
    """

    kept: Tensor
    segments: int

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def kinds(self) -> Tensor:
        """Of all but nothing and everything, whether a part is removed or kept alone (M - 2,)."""
        return torch.arange(len(self) - 2) // self._parts

    @property
    def without(self) -> Tensor:
        """Places of the coalitions without a segment (S,)."""
        return torch.arange(2, 2 + self.segments)

    @property
    def alone(self) -> Tensor:
        """Places of the coalitions of a segment alone (S,)."""
        return self.without + self._parts

    def is_added(self, parts: int) -> Tensor:
        """Whether each is of a part beyond the first ones (M,).

        Args:
            parts: How many come first.
        """
        place = torch.arange(len(self) - 2) % self._parts
        return torch.cat([torch.zeros(2, dtype=torch.bool), place >= parts])

    def segment_sums(self, values: Tensor) -> Tensor:
        """Return sums (S,) of doubles (P,) over the cells of each segment."""
        return self.kept[self.alone].flatten(1).double() @ values

    @property
    def _parts(self) -> int:
        return (len(self) - 2) // 2


def patches(grid: Sequence[int], *, is_shifted: bool = False) -> Tensor:
    """Cut a grid into about twenty boxes, as near to cubes as it goes.

    Args:
        grid: Its size, one number a dimension.
        is_shifted: Move the boxes by half of their size, so that their middles are the corners
            of the others; those at the borders are cut.

    Returns:
        The box of each cell, index tensor ``(*grid)``, from 0 without gaps.
    """
    total = torch.zeros(tuple(grid), dtype=torch.int64)
    for axis, (size, count) in enumerate(zip(grid, _counts(grid), strict=True)):
        place = torch.arange(size, dtype=torch.float64).add(0.5).mul(count / size)
        index = (place + 0.5 * (is_shifted and count > 1)).floor().long()
        shape = [1] * len(grid)
        shape[axis] = size
        total = total * (int(index.max()) + 1) + index.view(shape)
    numbered: Tensor = total.unique(return_inverse=True)[1]
    return numbered


def _counts(grid: Sequence[int]) -> list[int]:
    """Return into how many intervals each dimension is cut."""
    side = (math.prod(grid) / _PATCHES) ** (1 / len(grid))
    counts = [min(size, max(1, int(size / side))) for size in grid]
    # one more where intervals are longest, until there are enough
    while math.prod(counts) < _PATCHES and any(c < s for c, s in zip(counts, grid, strict=True)):
        longest = max(range(len(grid)), key=lambda i: (grid[i] / counts[i], i))
        counts[longest] += 1
    return counts


def coalitions(partitions: Sequence[Tensor]) -> Coalitions:
    """Return nothing, everything, and every part of some partitions removed and kept alone.

    Args:
        partitions: Index tensors ``(*grid)``; the first one holds the segments of the ledger.
    """
    parts = [[labels == label for label in labels.unique()] for labels in partitions]
    alone = torch.stack([part for partition in parts for part in partition])
    nothing = torch.zeros_like(alone[:1])
    return Coalitions(torch.cat([nothing, ~nothing, ~alone, alone]), len(parts[0]))
