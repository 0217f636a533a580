"""Rows of one batch as fits see them: feature vectors on a grid, computed when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from captum_kmex.grids import axes_of

__all__ = ["PooledRows", "RowSource", "check_squares", "widest"]

_LARGEST, _SMALLEST = 2.0**50, 2.0**-50  # whose squares, and their sums, float32 holds


def check_squares(features: Tensor) -> None:
    """Refuse maps ``(N, D, *grid)`` whose squared distances are out of range.

    Raises:
        ValueError: A value is above 1e15, or all are below 1e-15 and not zero.
    """
    largest = float(torch.linalg.vector_norm(features, torch.inf))
    if largest > _LARGEST or 0 < largest < _SMALLEST:
        raise ValueError(
            f"the map's largest value is {largest:.3g}, outside of {_SMALLEST:.1e} to "
            f"{_LARGEST:.1e}: its squared distances leave the range of float32; choose another "
            "layer, or scale the features in the model"
        )


def widest(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on MPS, which has no such type."""
    return torch.float32 if device.type == "mps" else torch.float64


class RowSource(Protocol):
    """Rows of one batch on a grid (``StackedBlocks``, ``PooledRows``)."""

    @property
    def grid(self) -> tuple[int, ...]:
        """Its size."""

    @property
    def width(self) -> int:
        """Length D of a row."""

    @property
    def squared_norms(self) -> Tensor:
        """Squared norm of each row ``(N, *grid)``."""

    @property
    def masses(self) -> Tensor | None:
        """What a row's chance to be sampled grows with (N, P), ``widest``; ``None``: nothing."""

    def select(self, images: Tensor) -> RowSource:
        """Return the rows of chosen images."""

    def rows(self, images: Tensor, pixels: Tensor) -> Tensor:
        """Return chosen rows (M, D)."""

    def scores(self, prototypes: Tensor) -> Tensor:
        """Return ``<z, p> - |p|^2 / 2`` ``(N, K, *grid)`` of prototypes (K, D) or (N, K, D)."""

    def nearest(self, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        """Return each row's nearest prototype and its squared distance ``(N, *grid)``."""

    def sums(self, membership: Tensor) -> Tensor:
        """Return the sums of rows (N, K, D) where ``membership`` ``(N, K, *grid)`` is 1."""


@dataclass(frozen=True)
class PooledRows:
    """Pooled embeddings (N, D) as rows on a grid of one cell.

    Embeddings are not bounded, and a few may lie far out; a sample takes them by their squared
    norm too. (Rows of ``StackedBlocks`` all have the same norm.)
    """

    embeddings: Tensor
    grid: tuple[int, ...] = (1, 1)

    @classmethod
    def of(cls, maps: Tensor) -> PooledRows:
        """Pool maps ``(N, D, *grid)``."""
        return cls(maps.mean(axes_of(maps)), (1,) * (maps.ndim - 2))

    @property
    def width(self) -> int:
        """Length D of an embedding."""
        return self.embeddings.shape[1]

    @property
    def squared_norms(self) -> Tensor:
        """Squared norm of each embedding ``(N, *grid)``."""
        return self._on_grid(self.embeddings.square().sum(1))

    @property
    def masses(self) -> Tensor:
        """Squared norm of each embedding (N, 1)."""
        return self.squared_norms.flatten(1).to(widest(self.embeddings.device))

    def select(self, images: Tensor) -> PooledRows:
        """Return chosen embeddings."""
        return PooledRows(self.embeddings[images], self.grid)

    def rows(self, images: Tensor, pixels: Tensor) -> Tensor:  # noqa: ARG002
        """Return the embeddings of chosen images (M, D)."""
        return self.embeddings[images]

    def scores(self, prototypes: Tensor) -> Tensor:
        """Return ``<h, p> - |p|^2 / 2`` ``(N, K, *grid)``."""
        products = (prototypes @ self.embeddings.unsqueeze(2)).squeeze(2)
        return self._on_grid(products - 0.5 * prototypes.square().sum(-1))

    def nearest(self, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        """Return each embedding's nearest prototype and its squared distance ``(N, *grid)``."""
        best, index = self.scores(prototypes).max(1)
        return index, (self.squared_norms - 2 * best).clamp_min(0)

    def sums(self, membership: Tensor) -> Tensor:
        """Return the embedding where it is a member and zeros elsewhere (N, K, D)."""
        return membership.flatten(2) * self.embeddings.unsqueeze(1)

    def _on_grid(self, values: Tensor) -> Tensor:
        """Return values, one an embedding, as maps of one cell."""
        return values.view(*values.shape, *self.grid)
