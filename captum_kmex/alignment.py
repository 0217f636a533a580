"""Class and out cosines of prototypes (Table 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from captum_kmex.composite.by_class import best_by_class
from captum_kmex.scaling import unit_scale

__all__ = ["AlignmentSums", "PrototypeAlignment", "rescaled"]


@dataclass(frozen=True)
class PrototypeAlignment:
    """How well prototypes point where their class's images lie.

    Attributes:
        class_cosine: Mean cosine of an embedding and its own class's closest prototype.
        out_cosine: Mean cosine of an embedding and the closest prototype of each other class;
            NaN if there is one class only.
        n_images: Number of embeddings.
    """

    class_cosine: float
    out_cosine: float
    n_images: int


class AlignmentSums:
    """Running cosines between embeddings and prototypes.

    Args:
        prototypes: Float tensor (K, D).
        membership: Integer tensor (K,), the class of each prototype.
        n_classes: Number of classes C; those without a prototype are left out.

    Reference:
        Boubekki & Clemmensen (2026), Table 1.
    """

    def __init__(self, prototypes: Tensor, membership: Tensor, n_classes: int) -> None:
        self._directions = _directions(prototypes)
        self._membership = membership
        self._present = torch.bincount(membership, minlength=n_classes) > 0
        self._own = self._others = 0.0
        self._count = 0

    def cosines(self, rows: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two cosines of each embedding (M, D) of known class (M,).

        Returns:
            Own class's closest prototype (M,), and the mean over the other classes of each
            one's closest (M,). NaN where the class has no prototype, or no other class has.
        """
        present = self._present.to(rows.device)
        membership = self._membership.to(rows.device)
        cosines = _directions(rows) @ self._directions.T.to(rows)
        best, _ = best_by_class(cosines, membership, len(present))
        own = best.gather(1, classes.unsqueeze(1)).squeeze(1)
        others = (best.masked_fill(~present, 0).sum(1) - own) / (present.sum() - 1)
        unknown = ~present[classes]
        return own.masked_fill(unknown, torch.nan), others.masked_fill(unknown, torch.nan)

    def add(self, rows: Tensor, classes: Tensor) -> None:
        """Take in pooled embeddings (M, D) of known class (M,)."""
        kept = self._present.to(rows.device)[classes]
        own, others = self.cosines(rows[kept], classes[kept])
        self._own += float(own.sum())
        self._others += float(others.sum())
        self._count += int(kept.sum())

    def result(self) -> PrototypeAlignment:
        """Return the means.

        Raises:
            ValueError: Nothing was taken in.
        """
        if not self._count:
            raise ValueError("the loader gave no image of a class with prototypes; pass some")
        return PrototypeAlignment(self._own / self._count, self._others / self._count, self._count)


def rescaled(prototypes: Tensor, membership: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
    """Return prototypes with the mean length of their class's embeddings.

    The head's columns have a direction that means something but a length that does not: among
    embeddings they all lie near the origin.

    Args:
        prototypes: Float tensor (K, D).
        membership: Class of each, integer tensor (K,).
        rows: Embeddings (M, D).
        classes: Their classes (M,); a class without embeddings makes its prototypes NaN.
    """
    scale = unit_scale(rows)
    lengths = (rows * scale).norm(dim=1) / scale.squeeze(1)
    means = torch.stack([lengths[classes == c].mean() for c in membership.tolist()])
    return _directions(prototypes) * means.unsqueeze(1).to(prototypes)


def _directions(rows: Tensor) -> Tensor:
    """Return rows (M, D) of unit length, zeros as they are, whatever their size."""
    return normalize(rows * unit_scale(rows), dim=1)
