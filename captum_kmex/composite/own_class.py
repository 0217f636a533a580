"""Each image's own class's prototypes, for passes in which only those compete."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ClassPrototypes"]


@dataclass(frozen=True)
class ClassPrototypes:
    """The prototypes of C classes side by side, padded to the largest class.

    Attributes:
        centroids: Float tensor (C, K, D); a class with fewer prototypes repeats its first.
        owner: Integer tensor (C, K), each one's index in the codebook; -1 for padding.
    """

    centroids: Tensor
    owner: Tensor

    @classmethod
    def of(cls, centroids: Tensor, membership: Tensor) -> ClassPrototypes:
        """Group the prototypes (K, D) of a codebook by class.

        Args:
            centroids: Float tensor (K, D).
            membership: Integer tensor (K,), their classes; a float tensor (K, C), of a
                class-agnostic fit, makes one group 0 of all.
        """
        device = centroids.device
        classes = membership if membership.ndim == 1 else membership[:, 0].long() * 0
        classes = classes.to(device)
        sizes = torch.bincount(classes)
        owner = torch.full((len(sizes), int(sizes.max())), -1, device=device)
        order = classes.argsort(stable=True)
        first = sizes.cumsum(0) - sizes
        rank = torch.arange(len(order), device=device) - first[classes[order]]
        owner[classes[order], rank] = order
        filled = torch.where(owner < 0, owner[:, :1], owner).clamp_min(0)
        return cls(centroids[filled], owner)

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def count(self) -> int:
        """Most prototypes K of a class."""
        return self.owner.shape[1]

    def known(self, classes: Tensor) -> Tensor:
        """Return the positions (M,) of classes that have prototypes."""
        has_any = torch.zeros_like(classes, dtype=torch.bool)
        inside = classes < len(self)
        has_any[inside] = self.owner[classes[inside], 0] >= 0
        return has_any.nonzero().squeeze(1)

    def chunks(self, classes: Tensor, n_pixels: int, budget: int) -> Iterator[Tensor]:
        """Return the positions of known classes, a few at a time.

        Args:
            classes: Integer tensor (M,), one an image.
            n_pixels: Pixels of an image.
            budget: Most scores at once, one a pixel and prototype.
        """
        size = max(1, budget // (n_pixels * self.count))
        yield from self.known(classes).split(size)
