"""The nearest training patches of each prototype: sample index, box, distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["NearestPatches", "Representatives", "RowSource", "cell_boxes"]


class RowSource(Protocol):
    """Rows of one batch on a grid, as fits see them (``StackedBlocks``, pooled embeddings)."""

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width."""

    @property
    def width(self) -> int:
        """Length D of a row."""

    @property
    def squared_norms(self) -> Tensor:
        """Squared norm of each row (N, H, W)."""

    def rows(self, images: Tensor, pixels: Tensor) -> Tensor:
        """Return chosen rows (M, D)."""

    def scores(self, prototypes: Tensor) -> Tensor:
        """Return ``<z, p> - |p|^2 / 2`` (N, K, H, W)."""


@dataclass(frozen=True)
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


class NearestPatches:
    """Collects, batch by batch, the patches nearest to each prototype.

    Args:
        prototypes: Float tensor (K, D).
        membership: Index tensor (K,): only images of a prototype's own class compete. A float
            tensor (K, C), of a class-agnostic fit, lets every image compete.
        count: Patches m kept of each prototype.
    """

    def __init__(self, prototypes: Tensor, membership: Tensor, count: int) -> None:
        self._prototypes = prototypes
        self._membership = membership if membership.ndim == 1 else None
        shape = (len(prototypes), count)
        self._distances = prototypes.new_full(shape, torch.inf)
        self._indices = torch.full(shape, -1, device=prototypes.device)
        self._boxes = torch.zeros((*shape, 4), dtype=torch.int64, device=prototypes.device)

    def add(
        self,
        source: RowSource,
        pairs: tuple[Tensor, Tensor],
        indices: Tensor,
        size: tuple[int, int],
    ) -> None:
        """Let the images of one batch compete.

        Args:
            source: The batch's rows.
            pairs: Images and classes, as from ``class_pairs``.
            indices: Integer tensor (N,), data-set indices.
            size: Height and width of the input.
        """
        if self._membership is None:
            everyone = torch.arange(len(self._prototypes), device=indices.device)
            self._compete(source, everyone, torch.arange(len(indices)), indices, size)
            return
        images, classes = pairs
        for c in classes.unique().tolist():
            own = (self._membership == c).nonzero().squeeze(1)
            if len(own):
                self._compete(source, own, images[classes == c], indices, size)

    def _compete(
        self,
        source: RowSource,
        own: Tensor,
        images: Tensor,
        indices: Tensor,
        size: tuple[int, int],
    ) -> None:
        scores = source.scores(self._prototypes[own])[images]
        distances = (source.squared_norms[images].unsqueeze(1) - 2 * scores).flatten(2)
        nearest, cells = distances.min(2)  # (n, k)
        boxes = cell_boxes(cells, source.grid, size)
        merged = torch.cat([self._distances[own], nearest.clamp_min(0).sqrt().T], 1)
        names = torch.cat([self._indices[own], indices[images].expand(len(own), -1)], 1)
        merged = merged.masked_fill(_repeated(names), torch.inf)
        names = names.masked_fill(merged.isinf(), -1)
        places = torch.cat([self._boxes[own], boxes.transpose(0, 1)], 1)
        kept = merged.argsort(dim=1, stable=True)[:, : self._distances.shape[1]]
        self._distances[own] = merged.gather(1, kept)
        self._indices[own] = names.gather(1, kept)
        self._boxes[own] = places.gather(1, kept.unsqueeze(2).expand(-1, -1, 4))

    def result(self) -> Representatives:
        """Return what was collected, on the CPU."""
        return Representatives(self._indices.cpu(), self._boxes.cpu(), self._distances.cpu())


def _repeated(names: Tensor) -> Tensor:
    """Return where a name (K, M) stands again in its row: a sampler may repeat an image."""
    ordered, order = names.sort(dim=1, stable=True)
    again = torch.zeros_like(names, dtype=torch.bool)
    again[:, 1:] = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    return torch.zeros_like(again).scatter(1, order, again)
