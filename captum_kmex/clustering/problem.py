"""One k-means problem: rows near the origin, their weights, and parts drawn from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_kmex.clustering.gram import TINY

__all__ = ["Problem"]

_OFFSET = 10.0  # squared mean over variance above which rows are centred


@dataclass(frozen=True)
class Problem:
    """One class: rows near enough to the origin for expanded distances to keep their digits.

    Attributes:
        rows: Float tensor (M, D), less their mean where that is far out.
        squares: Their squared norms (M,).
        far: Their squared distances to their mean (M,).
        weights: Float tensor (M,), or ``None`` where all are alike.
        mean: What was taken off the rows (D,).
    """

    rows: Tensor
    squares: Tensor
    far: Tensor
    weights: Tensor | None
    mean: Tensor

    @classmethod
    def of(cls, rows: Tensor, weights: Tensor | None, n_clusters: int) -> Problem:
        """Centre the rows where they are far out.

        Raises:
            ValueError: Fewer rows than clusters.
        """
        if n_clusters < 1 or len(rows) < n_clusters:
            raise ValueError(f"n_samples={len(rows)} should be >= n_clusters={n_clusters} >= 1")
        weights = None if weights is None else weights.to(rows)
        mean = rows.mean(0) if weights is None else weights @ rows / weights.sum()
        squares = torch.linalg.vector_norm(rows, dim=1).square()
        far = squares - 2 * (rows @ mean) + mean.square().sum()
        if mean.square().sum() > _OFFSET * far.mean():
            rows = rows - mean
            squares = far = torch.linalg.vector_norm(rows, dim=1).square()
        else:
            mean = torch.zeros_like(mean)
        return cls(rows, squares, far, weights, mean)

    @property
    def masses(self) -> Tensor:
        """Weight of each row (M,)."""
        return torch.ones_like(self.squares) if self.weights is None else self.weights

    def parts(self, count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return ``count`` parts of the rows, in which rare far rows are not missed.

        Args:
            count: Number of parts P.
            size: Rows m of each, drawn with replacement.
            seed: Seed of the draw.

        Returns:
            Index tensor (P, m) into the rows, and their weights (P, m).

        Reference:
            Bachem et al., "Scalable k-Means Clustering via Lightweight Coresets" (2018).
        """
        mass = self.masses.cpu().double()
        spread = mass * self.far.cpu().clamp_min(0)
        share = 0.5 * mass / mass.sum() + 0.5 * spread / spread.sum().clamp_min(TINY)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(share, count * size, replacement=True, generator=generator)
        weights = mass[drawn] / (size * share[drawn])
        shape = (count, size)
        return drawn.view(shape).to(self.rows.device), weights.view(shape).to(self.rows)
