"""Distances of a pooled embedding to class-wise centroids, and the map of a class's margin."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from captum_kmex.bank.checks import check_classes
from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.composite.by_class import best_by_class
from captum_kmex.explaining.evidence import Question
from captum_kmex.grids import axes_of, over_grid

__all__ = ["CentroidMargins", "margin_density", "squared_distances"]


def squared_distances(rows: Tensor, centroids: Tensor) -> Tensor:
    """Return squared distances (N, K), by differences so that none is negative."""
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(rows, centroids.to(rows), compute_mode=mode).square()


def margin_density(features: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return what each position adds to ``|h - b|^2 - |h - a|^2``, a density ``(N, 1, *grid)``.

    With ``h = mean_p h_p`` it is ``mean_p 2 <h_p - (a + b) / 2, a - b>``.

    Args:
        features: Float tensor ``(N, D, *grid)``.
        a: The nearer prototype of each image ``(N, D, 1, ..., 1)``.
        b: The farther one, likewise.
    """
    return 2 * ((features - (a + b) / 2) * (a - b)).sum(1, keepdim=True)


@dataclass(frozen=True, eq=False)
class CentroidMargins:
    """A feature map whose pooled embedding is classified by the nearest centroid.

    Margins and distances are means over positions, so they are sums of maps.

    Attributes:
        bank: Class-wise centroids of pooled embeddings.
        features: Float tensor ``(N, D, *grid)``.
    """

    bank: PrototypeBank
    features: Tensor

    @cached_property
    def pooled(self) -> Tensor:
        """The embeddings (N, D)."""
        return self.features.mean(axes_of(self.features))

    @cached_property
    def nearest(self) -> tuple[Tensor, Tensor]:
        """Each class's least squared distance (N, C), inf without prototypes, and whose it is."""
        distances = squared_distances(self.pooled, self._centroids)
        classes = self.bank.codebooks[0].membership
        best, index = best_by_class(-distances, classes, self.bank.n_classes)
        return -best, index

    def answer(self, question: Question) -> tuple[Tensor, Tensor]:
        """Return the density of a distance or a margin, and what it adds up to.

        Raises:
            ValueError: A contrast of distances, or as ``distance`` and ``margin``.
        """
        if question.units == "margin":
            return self.margin(question.target, question.contrast)
        if question.contrast is not None:
            raise ValueError("contrast needs units='margin'; a distance has no second class")
        return self.distance(question.target)

    def distance(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the density ``(N, 1, *grid)`` of the squared distance to a class (N,), and it.

        Raises:
            ValueError: A class without prototypes.
        """
        check_classes(self.bank, target)
        own = self._of(target)
        offset = over_grid(self.pooled - own.flatten(1), self.features)
        return ((self.features - own) * offset).sum(1, keepdim=True), self._least(target)

    def margin(self, target: Tensor, contrast: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the density ``(N, 1, *grid)`` of the margin by which a class wins, and it (N,).

        Args:
            target: Explained class (N,).
            contrast: The class that it is compared with (N,); the nearest other one if ``None``.

        Raises:
            ValueError: A class without prototypes, or there is no other one.
        """
        check_classes(self.bank, target)
        contrast = self._rival(target) if contrast is None else contrast
        check_classes(self.bank, contrast)
        a, b = self._of(target), self._of(contrast)
        return margin_density(self.features, a, b), self._least(contrast) - self._least(target)

    @property
    def _centroids(self) -> Tensor:
        return self.bank.codebooks[0].centroids.to(self.features)

    def _rival(self, target: Tensor) -> Tensor:
        least, _ = self.nearest
        rivals = least.scatter(1, target.unsqueeze(1), torch.inf)
        if not torch.isfinite(rivals).any(1).all():
            raise ValueError(
                f"a margin needs prototypes of a second class, the bank has only class "
                f"{int(target[0])}; fit more classes, or use units='distance'"
            )
        return rivals.argmin(1)

    def _least(self, classes: Tensor) -> Tensor:
        return self.nearest[0].gather(1, classes.unsqueeze(1)).squeeze(1)

    def _of(self, classes: Tensor) -> Tensor:
        """Return each image's nearest centroid of its class ``(N, D, 1, ..., 1)``."""
        chosen = self.nearest[1].gather(1, classes.unsqueeze(1)).squeeze(1)
        return over_grid(self._centroids[chosen], self.features)
