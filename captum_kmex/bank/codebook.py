"""``Codebook``: the prototypes of one depth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_kmex.arguments import checked
from captum_kmex.bank.representatives import Representatives

__all__ = ["Codebook", "is_agnostic", "owners", "prototype_numbers"]

_TENSORS = ("centroids", "membership", "counts", "spread")


def is_agnostic(membership: Tensor) -> bool:
    """Whether prototypes have shares of classes (K, C), rather than a class each (K,)."""
    return membership.ndim == 2


def owners(membership: Tensor) -> Tensor:
    """Return the class of each prototype (K,), the most frequent one where there are several."""
    return membership.argmax(1) if is_agnostic(membership) else membership


def prototype_numbers(membership: Tensor) -> Tensor:
    """Return the number that each prototype is shown by (K,), as in ``Codebook.numbers``."""
    if is_agnostic(membership):
        return torch.arange(1, len(membership) + 1)
    own, order = membership.cpu().sort(stable=True)
    places = torch.arange(1, len(own) + 1) - torch.searchsorted(own, own)
    return torch.empty_like(places).scatter_(0, order, places)


@dataclass(frozen=True, eq=False)
class Codebook:
    """The prototypes of one depth.

    Attributes:
        centroids: Float tensor (K, D).
        membership: Integer tensor (K,), the class of each prototype; or float tensor (K, C),
            the share of each class in a class-agnostic cluster.
        counts: Integer tensor (K,), rows in each cluster: of the sample, after ``refine`` all.
        spread: Float tensor (K,), mean squared distance of a cluster's rows to its centroid.
        representatives: Nearest training patches, if they were collected.
    """

    centroids: Tensor
    membership: Tensor
    counts: Tensor
    spread: Tensor
    representatives: Representatives | None = None

    @property
    def is_agnostic(self) -> bool:
        """Whether its clusters belong to no class and vote by the classes in them."""
        return is_agnostic(self.membership)

    @property
    def owners(self) -> Tensor:
        """The class of each prototype (K,), the most frequent one where there are several."""
        return owners(self.membership)

    @property
    def numbers(self) -> Tensor:
        """The number that each prototype is shown by (K,): from 1 among those of its class.

        Class-agnostic ones are counted over all.
        """
        return prototype_numbers(self.membership)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors but for the representatives."""
        return {name: getattr(self, name) for name in _TENSORS}

    @classmethod
    def of(cls, state: Mapping[str, Tensor], device: torch.device) -> Codebook:
        """Read a saved codebook without representatives."""
        centroids, membership, counts, spread = (state[name].to(device) for name in _TENSORS)
        return cls(centroids, membership, counts, spread)

    @checked
    def of_class(self, c: int) -> Tensor:
        """Return the indices of a class's prototypes; of all, in a class-agnostic codebook."""
        if self.is_agnostic:
            return torch.arange(len(self.centroids))
        return (self.membership == c).nonzero().squeeze(1)
