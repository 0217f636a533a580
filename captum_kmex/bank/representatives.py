"""The nearest training patches of each prototype: sample index, box, distance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_kmex.composite.own_class import ClassPrototypes
from captum_kmex.fitting.rows import RowSource

__all__ = ["NearestPatches", "Representatives", "cell_boxes"]

_SCORES = 2**23  # scores at once, one a pixel and prototype


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
        self._prototypes = ClassPrototypes.of(prototypes, membership)
        self._is_agnostic = membership.ndim == 2
        shape, device = (len(prototypes), count), prototypes.device
        self._distances = prototypes.new_full(shape, torch.inf)
        self._indices = torch.full(shape, -1, device=device)
        self._boxes = torch.zeros((*shape, 4), dtype=torch.int64, device=device)

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
        images, classes = pairs
        if self._is_agnostic:
            images, classes = torch.arange(len(indices)).to(indices), torch.zeros_like(indices)
        n_pixels = source.grid[0] * source.grid[1]
        for chunk in self._prototypes.chunks(classes, n_pixels, _SCORES):
            chosen, own = images[chunk], classes[chunk]
            rows = source.select(chosen)
            scores = rows.scores(self._prototypes.centroids[own])
            distances = (rows.squared_norms.unsqueeze(1) - 2 * scores).flatten(2)
            nearest, cells = distances.min(2)  # (n, K)
            found = Representatives(
                indices[chosen].unsqueeze(1).expand_as(cells),
                cell_boxes(cells, source.grid, size),
                nearest.clamp_min(0).sqrt(),
            )
            for c in own.unique().tolist():
                owner = self._prototypes.owner[c]
                self._compete(owner[owner >= 0], found, own == c)

    def _compete(self, own: Tensor, found: Representatives, images: Tensor) -> None:
        """Let chosen images (n,) compete for some prototypes (k,), column by column."""
        columns = slice(len(own))
        merged = torch.cat([self._distances[own], found.distances[images, columns].T], 1)
        names = torch.cat([self._indices[own], found.indices[images, columns].T], 1)
        places = torch.cat([self._boxes[own], found.boxes[images, columns].transpose(0, 1)], 1)
        merged = merged.masked_fill(_repeated(names), torch.inf)
        names = names.masked_fill(merged.isinf(), -1)
        kept = merged.argsort(dim=1, stable=True)[:, : self._distances.shape[1]]
        self._distances[own] = merged.gather(1, kept)
        self._indices[own] = names.gather(1, kept)
        self._boxes[own] = places.gather(1, kept.unsqueeze(2).expand(-1, -1, 4))

    def merge(self, other: Representatives) -> None:
        """Let the patches that another search found compete."""
        everyone = torch.arange(len(self._indices), device=self._indices.device)
        columns = Representatives(
            other.indices.to(everyone.device).T,
            other.boxes.to(everyone.device).transpose(0, 1),
            other.distances.to(self._distances).T,
        )
        self._compete(everyone, columns, torch.ones_like(columns.indices[:, 0], dtype=torch.bool))

    def state(self) -> dict[str, Tensor]:
        """Return what was collected so far, to save and to ``merge``."""
        found = self.result()
        return {
            "indices": found.indices,
            "boxes": found.boxes,
            "distances": found.distances,
        }

    def result(self) -> Representatives:
        """Return what was collected, on the CPU."""
        return Representatives(self._indices.cpu(), self._boxes.cpu(), self._distances.cpu())


def _repeated(names: Tensor) -> Tensor:
    """Return where a name (K, M) stands again in its row: a sampler may repeat an image."""
    ordered, order = names.sort(dim=1, stable=True)
    again = torch.zeros_like(names, dtype=torch.bool)
    again[:, 1:] = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    return torch.zeros_like(again).scatter(1, order, again)
