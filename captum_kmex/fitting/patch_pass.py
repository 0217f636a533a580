"""The search for the training patches nearest to each prototype, in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from captum_kmex.bank.codebook import Codebook
from captum_kmex.bank.fields import check_patches, patch_kinds
from captum_kmex.bank.representatives import Representatives, cell_boxes
from captum_kmex.bank.tensor_kinds import INTEGER, TensorKind
from captum_kmex.composite.by_class import ClassPrototypes
from captum_kmex.data.batches import Batch
from captum_kmex.fitting.options import FitOptions, Observation
from captum_kmex.fitting.rows import RowSource
from captum_kmex.fitting.state import State, added, beside
from captum_kmex.grids import grid_of

__all__ = ["NearestPatches", "PatchPass"]

_SCORES = 2**23  # scores at once, one a pixel and prototype


class PatchPass(State):
    """The search for the nearest patches at each depth.

    Args:
        books: The codebooks, one a depth.
        options: Options of the fit.

    Attributes:
        n_images: Images seen.
    """

    n_images: int

    def __init__(self, books: Sequence[Codebook], options: FitOptions) -> None:
        super().__init__()
        self.declare("n_images", 0, TensorKind(INTEGER, (), 0), added)
        self._options = options
        self._books = books
        self._searches = [NearestPatches(book, options.n_representatives) for book in books]

    def parts(self) -> Iterator[tuple[str, State]]:
        """Yield the search of each depth."""
        for depth, search in enumerate(self._searches):
            yield f"{depth}", search

    def add(self, batch: Batch, seen: Observation) -> None:
        """Let the images of a batch compete."""
        self.n_images += len(batch.indices)
        pairs = self._options.pairs(batch, seen.logits)
        for search, source in zip(self._searches, seen.sources, strict=True):
            search.add(source, pairs, batch.indices, grid_of(batch.inputs[0]))

    def result(self) -> list[Codebook]:
        """Return the codebooks with their patches."""
        pairs = zip(self._books, self._searches, strict=True)
        return [replace(book, representatives=search.result()) for book, search in pairs]


class NearestPatches(State):
    """Collects, batch by batch, the patches nearest to each prototype.

    Only images of a prototype's own class compete, in a class-agnostic codebook all.

    Args:
        book: The codebook of K prototypes.
        count: Patches m kept of each prototype.

    Attributes:
        indices: Integer tensor (K, m), as of ``Representatives``.
        boxes: Integer tensor (K, m, 2 d), of d sides; (K, m, 0) before the first batch.
        distances: Float tensor (K, m).
    """

    indices: Tensor
    boxes: Tensor
    distances: Tensor

    def __init__(self, book: Codebook, count: int) -> None:
        super().__init__()
        self._book, self._count = book, count
        self._prototypes = ClassPrototypes.of(book)
        shape, device = (len(book.centroids), count), book.centroids.device
        kinds = patch_kinds(shape, book.centroids.dtype)
        none = Representatives(
            torch.full(shape, -1, device=device),
            torch.zeros((*shape, 0), dtype=torch.int64, device=device),
            book.centroids.new_full(shape, torch.inf),
        )
        for name, kind in kinds.items():
            join = _boxes_beside if name == "boxes" else beside
            self.declare(name, getattr(none, name), kind, join)

    def add(
        self,
        source: RowSource,
        pairs: tuple[Tensor, Tensor],
        indices: Tensor,
        size: tuple[int, ...],
    ) -> None:
        """Let the images of one batch compete.

        Args:
            source: The batch's rows.
            pairs: Images and classes, as from ``class_pairs``.
            indices: Integer tensor (N,), data-set indices.
            size: Size of the input.
        """
        if not self.boxes.shape[2]:
            self.boxes = self.boxes.new_zeros(*self.boxes.shape[:2], 2 * len(size))
        images, classes = pairs
        if self._book.is_agnostic:
            images, classes = torch.arange(len(indices)).to(indices), torch.zeros_like(indices)
        for chunk in self._prototypes.chunks(classes, math.prod(source.grid), _SCORES):
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
        best = self._nearest(
            Representatives(
                torch.cat([self.indices[own], found.indices[images, columns].T], 1),
                torch.cat([self.boxes[own], found.boxes[images, columns].transpose(0, 1)], 1),
                torch.cat([self.distances[own], found.distances[images, columns].T], 1),
            )
        )
        self.indices[own], self.boxes[own] = best.indices, best.boxes
        self.distances[own] = best.distances

    def _nearest(self, found: Representatives) -> Representatives:
        """Return the nearest of many patches (k, M), each image once."""
        distances = found.distances.masked_fill(_repeated(found.indices), torch.inf)
        indices = found.indices.masked_fill(distances.isinf(), -1)
        kept = distances.argsort(dim=1, stable=True)[:, : self._count]
        boxes = found.boxes.gather(1, kept.unsqueeze(2).expand(-1, -1, found.boxes.shape[2]))
        return Representatives(indices.gather(1, kept), boxes, distances.gather(1, kept))

    def share(self) -> None:
        """Let the patches that all machines found compete."""
        super().share()
        best = self._nearest(Representatives(self.indices, self.boxes, self.distances))
        self.indices, self.boxes, self.distances = best.indices, best.boxes, best.distances

    def check_values(self, saved: Mapping[str, Tensor], prefix: str = "") -> None:
        """Raise ``ValueError`` for patches that are none."""
        check_patches(saved, prefix)

    def result(self) -> Representatives:
        """Return what was collected, on the CPU."""
        return Representatives(self.indices.cpu(), self.boxes.cpu(), self.distances.cpu())


def _boxes_beside(parts: Sequence[Tensor]) -> Tensor:
    """Return all columns; those of a machine that saw no image have no ends yet."""
    ends = max(own.shape[2] for own in parts)
    return beside([own if own.shape[2] else own.new_zeros(*own.shape[:2], ends) for own in parts])


def _repeated(names: Tensor) -> Tensor:
    """Return where a name (K, M) stands again in its row: a sampler may repeat an image."""
    ordered, order = names.sort(dim=1, stable=True)
    again = torch.zeros_like(names, dtype=torch.bool)
    again[:, 1:] = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    return torch.zeros_like(again).scatter(1, order, again)
