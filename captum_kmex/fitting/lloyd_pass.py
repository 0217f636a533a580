"""Lloyd steps over all rows of a data set: sums are accumulated, no rows are kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from captum_kmex.bank.codebook import Codebook
from captum_kmex.bank.tensor_kinds import FLOAT, INTEGER, TensorKind
from captum_kmex.composite.by_class import ClassPrototypes
from captum_kmex.data.batches import Batch
from captum_kmex.fitting.options import FitOptions, Observation
from captum_kmex.fitting.rows import RowSource, widest
from captum_kmex.fitting.state import State, added
from captum_kmex.grids import axes_of, over_grid

__all__ = ["LloydPass", "LloydSums"]

_SCORES = 2**23  # scores at once, one a pixel and prototype


class LloydPass(State):
    """One exact Lloyd step at each depth.

    Args:
        books: The codebooks to improve, one a depth.
        n_classes: Number of classes.
        options: Options of the fit.

    Attributes:
        n_images: Images seen.
    """

    n_images: int

    def __init__(self, books: Sequence[Codebook], n_classes: int, options: FitOptions) -> None:
        super().__init__()
        self.declare("n_images", 0, TensorKind(INTEGER, (), 0), added)
        self._options = options
        self._steps = [LloydSums(book, n_classes) for book in books]

    def parts(self) -> Iterator[tuple[str, State]]:
        """Yield the sums of each depth."""
        for depth, step in enumerate(self._steps):
            yield f"{depth}", step

    def add(self, batch: Batch, seen: Observation) -> None:
        """Take in a batch and what the model made of it."""
        self.n_images += len(batch.indices)
        pairs = self._options.pairs(batch, seen.logits)
        for step, source in zip(self._steps, seen.sources, strict=True):
            step.add(source, pairs)

    def result(self) -> list[Codebook]:
        """Return the codebooks after the step."""
        return [step.result() for step in self._steps]


class LloydSums(State):
    """What one exact Lloyd step needs of every row: sums, counts, squares and classes.

    Rows of an image compete for the prototypes of its class, for all of a class-agnostic
    codebook. Sums of resized rows come from resizing the assignment back, so no row is made.

    Args:
        book: The codebook to improve.
        n_classes: Number of classes, for the votes of class-agnostic clusters.

    Attributes:
        sums: Float tensor (K, D), the sum of each prototype's rows.
        totals: Float tensor (K, 2), its rows and their squared norms; of a class-agnostic
            codebook (K, 2 + C), then its rows of each class that voted.

    Reference:
        Lloyd (1982); Bottou & Bengio, convergence of k-means in batches (1995).
    """

    sums: Tensor
    totals: Tensor

    def __init__(self, book: Codebook, n_classes: int) -> None:
        super().__init__()
        self._book = book
        self._prototypes = ClassPrototypes.of(book)
        device, (count, width) = book.centroids.device, book.centroids.shape
        dtype, votes = widest(device), n_classes if book.is_agnostic else 0
        sums = torch.zeros(count, width, dtype=dtype, device=device)
        totals = torch.zeros(count, 2 + votes, dtype=dtype, device=device)
        for name, zeros, low in (("sums", sums, None), ("totals", totals, 0)):
            kind = TensorKind(FLOAT, tuple(zeros.shape), low, alike="/sums")
            self.declare(name, zeros, kind, added)

    def add(self, source: RowSource, pairs: tuple[Tensor, Tensor]) -> None:
        """Take in the rows of one batch.

        Args:
            source: The batch's rows.
            pairs: Images and classes, as from ``class_pairs``.
        """
        images, tags = pairs
        classes = torch.zeros_like(tags) if self._book.is_agnostic else tags
        for chunk in self._prototypes.chunks(classes, math.prod(source.grid), _SCORES):
            self._add(source.select(images[chunk]), classes[chunk], tags[chunk])

    def _add(self, rows: RowSource, classes: Tensor, tags: Tensor) -> None:
        owner = self._prototypes.owner.to(classes.device)[classes]  # (n, K)
        prototypes = self._prototypes.centroids.to(rows.squared_norms)[classes]
        nearest, _ = rows.nearest(prototypes)
        clusters = torch.arange(self._prototypes.count, device=nearest.device)
        members = (nearest.unsqueeze(1) == over_grid(clusters, nearest)).to(prototypes)
        axes = axes_of(members)  # (n, K, *grid)
        counts = members.sum(axes)
        squares = (members * rows.squared_norms.unsqueeze(1)).sum(axes)
        totals = torch.stack([counts, squares], 2)
        if self.totals.shape[1] > 2:
            votes = counts.new_zeros(*counts.shape, self.totals.shape[1] - 2)
            votes[torch.arange(len(tags), device=tags.device), :, tags] = counts
            totals = torch.cat([totals, votes], 2)
        # a repeat in the padding wins nothing but by rounding; its rows are the first's
        owner = torch.where(owner < 0, owner[:, :1], owner).flatten().to(self.sums.device)
        for sums, found in ((self.sums, rows.sums(members)), (self.totals, totals)):
            # the device first: MPS has no float64
            sums.index_add_(0, owner, found.flatten(0, 1).to(sums.device).to(sums.dtype))

    def result(self) -> Codebook:
        """Return the codebook after the step; a cluster without rows keeps its centroid."""
        counts, squares = self.totals[:, :1], self.totals[:, 1]
        means = self.sums / counts.clamp_min(1)
        spread = (squares / counts[:, 0].clamp_min(1) - means.square().sum(1)).clamp_min(0)
        kept = self._book.centroids
        means, counts = (x.to(kept.dtype).to(kept.device) for x in (means, counts))
        centroids = torch.where(counts > 0, means, kept)
        membership = self._book.membership
        if self._book.is_agnostic:
            votes = self.totals[:, 2:]
            shares = votes / votes.sum(1, keepdim=True).clamp_min(1)  # (K, C)
            shares = shares.to(membership.dtype).to(membership.device)
            membership = torch.where(counts > 0, shares, membership)
        spread = spread.to(kept.dtype).to(kept.device)
        counts = self.totals[:, 0].long().to(kept.device)
        return Codebook(centroids, membership, counts, spread)
