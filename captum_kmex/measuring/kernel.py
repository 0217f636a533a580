"""How alike the evidence of two cells is thought to be before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FeatureKernel"]

_STRIP = 2**22  # entries of the covariance at a time: 32 MiB


@dataclass(frozen=True, eq=False)
class FeatureKernel:
    """Cells are alike where features are, and where they are near.

    The covariance of two cells is ``exp(-d² / 2l²) exp(-r² / 2q²) / P``, plus ``own / P`` of a
    cell with itself, with d the distance of features over its root mean square in the image, r
    that of places in sides of the grid, and P cells. It is never held whole.

    Attributes:
        features: Features of each cell (P, D), double.
        places: Place of each cell in sides of the grid (P, d), double.
        likeness: The length l.
        reach: The length q.
        own: What each cell has of its own.
    """

    features: Tensor
    places: Tensor
    likeness: float
    reach: float
    own: float

    @classmethod
    def of(
        cls, rows: Tensor, grid: Sequence[int], likeness: float, reach: float, own: float
    ) -> FeatureKernel:
        """Return the kernel of features (P, D) on a grid."""
        rows = rows.double()
        rows = rows - rows.mean(0)
        # the mean of all squared distances, of a cell with itself too
        mean = 2 * rows.square().sum(1).mean()
        axes = [torch.arange(size, device=rows.device).double() / size for size in grid]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)
        return cls(rows / mean.clamp_min(1e-300).sqrt(), places, likeness, reach, own)

    def __call__(self, columns: Tensor) -> Tensor:
        """Return the covariance times columns (P, M)."""
        cells = len(self.features)
        strips = torch.arange(cells, device=columns.device).split(max(1, _STRIP // cells))
        alike = torch.cat([self._strip(strip) @ columns for strip in strips])
        return (alike + self.own * columns) / cells

    def _strip(self, cells: Tensor) -> Tensor:
        alike = _squared_distances(self.features[cells], self.features) / self.likeness**2
        near = _squared_distances(self.places[cells], self.places) / self.reach**2
        return torch.exp(-0.5 * (alike + near))


def _squared_distances(some: Tensor, others: Tensor) -> Tensor:
    squares = some.square().sum(1)[:, None] + others.square().sum(1)
    return (squares - 2 * some @ others.T).clamp_min_(0)
