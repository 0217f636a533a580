"""Lloyd steps over all rows of a data set: sums are accumulated, no rows are kept."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_kmex.bank.prototype_bank import Codebook
from captum_kmex.composite.own_class import ClassPrototypes
from captum_kmex.fitting.rows import RowSource

__all__ = ["LloydSums"]

_SCORES = 2**23  # scores at once, one a pixel and prototype


class LloydSums:
    """What one exact Lloyd step needs of every row: sums, counts, squares and classes.

    Rows of an image compete for the prototypes of its class, for all of a class-agnostic
    codebook. Sums of resized rows come from resizing the assignment back, so no row is made.

    Args:
        book: The codebook to improve.
        n_classes: Number of logits, for the votes of class-agnostic clusters.

    Reference:
        Lloyd (1982); Bottou & Bengio, convergence of k-means in batches (1995).
    """

    def __init__(self, book: Codebook, n_classes: int) -> None:
        count, width = book.centroids.shape
        self._book = book
        self._prototypes = ClassPrototypes.of(book.centroids, book.membership)
        device = book.centroids.device
        wide = torch.zeros((), dtype=torch.float64)
        wide = wide if device.type == "mps" else wide.to(device)  # which has no such type
        self._sums = wide.new_zeros(count, width)
        # rows and their squared norms, then rows of each class that voted
        votes = n_classes if book.membership.ndim == 2 else 0
        self._totals = wide.new_zeros(count, 2 + votes)

    def add(self, source: RowSource, pairs: tuple[Tensor, Tensor]) -> None:
        """Take in the rows of one batch.

        Args:
            source: The batch's rows.
            pairs: Images and classes, as from ``class_pairs``.
        """
        images, tags = pairs
        classes = tags if self._book.membership.ndim == 1 else torch.zeros_like(tags)
        n_pixels = source.grid[0] * source.grid[1]
        for chunk in self._prototypes.chunks(classes, n_pixels, _SCORES):
            self._add(source.select(images[chunk]), classes[chunk], tags[chunk])

    def _add(self, rows: RowSource, classes: Tensor, tags: Tensor) -> None:
        owner = self._prototypes.owner.to(classes.device)[classes]  # (n, K)
        prototypes = self._prototypes.centroids.to(rows.squared_norms)[classes]
        nearest, _ = rows.nearest(prototypes)
        clusters = torch.arange(self._prototypes.count, device=nearest.device)[:, None, None]
        members = (nearest.unsqueeze(1) == clusters).to(prototypes)  # (n, K, H, W)
        counts = members.sum((2, 3))
        squares = (members * rows.squared_norms.unsqueeze(1)).sum((2, 3))
        totals = torch.stack([counts, squares], 2)
        if self._totals.shape[1] > 2:
            votes = counts.new_zeros(*counts.shape, self._totals.shape[1] - 2)
            votes[torch.arange(len(tags), device=tags.device), :, tags] = counts
            totals = torch.cat([totals, votes], 2)
        # a repeat in the padding wins nothing but by rounding; its rows are the first's
        owner = torch.where(owner < 0, owner[:, :1], owner).flatten().to(self._sums.device)
        for sums, found in ((self._sums, rows.sums(members)), (self._totals, totals)):
            # the device first: MPS has no float64
            sums.index_add_(0, owner, found.flatten(0, 1).to(sums.device).to(sums.dtype))

    def state(self) -> dict[str, Tensor]:
        """Return the sums, to save, to add up over machines, or to ``restore``."""
        return {"sums": self._sums, "totals": self._totals}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up saved sums."""
        self._sums, self._totals = state["sums"].to(self._sums), state["totals"].to(self._sums)

    def result(self) -> Codebook:
        """Return the codebook after the step; a cluster without rows keeps its centroid."""
        counts, squares = self._totals[:, :1], self._totals[:, 1]
        means = self._sums / counts.clamp_min(1)
        spread = (squares / counts[:, 0].clamp_min(1) - means.square().sum(1)).clamp_min(0)
        kept = self._book.centroids
        means, counts = (x.to(kept.dtype).to(kept.device) for x in (means, counts))
        centroids = torch.where(counts > 0, means, kept)
        membership = self._book.membership
        if membership.ndim == 2:
            votes = self._totals[:, 2:]
            shares = votes / votes.sum(1, keepdim=True).clamp_min(1)  # (K, C)
            shares = shares.to(membership.dtype).to(membership.device)
            membership = torch.where(counts > 0, shares, membership)
        spread = spread.to(kept.dtype).to(kept.device)
        counts = self._totals[:, 0].long().to(kept.device)
        return Codebook(centroids, membership, counts, spread)
