"""Whose prototypes win whose pixels, as data: how classes are confused, and by which."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_kmex.bank.codebook import owners
from captum_kmex.explaining.segments import to_classes

__all__ = ["PrototypeWins"]


@dataclass(frozen=True)
class PrototypeWins:
    """How many pixels of each class's images each prototype wins.

    Attributes:
        counts: Integer tensor (C, K), pixels of images of class c won by prototype k.
        membership: Class of each prototype (K,), or its shares of the classes (K, C).
    """

    counts: Tensor
    membership: Tensor

    def class_shares(self) -> Tensor:
        """Return the share of each class's pixels that each class's prototypes win (C, C).

        Rows are classes of images and sum to 1; a class without images has a row of NaN.
        """
        won = to_classes(self.counts.double(), self.membership, len(self.counts))
        return won / won.sum(1, keepdim=True)

    def foreign_shares(self) -> Tensor:
        """Return the share of each prototype's pixels that come from other classes' images (K,).

        NaN for a prototype that wins no pixel.
        """
        counts = self.counts.double()
        return 1 - (counts * self._own()).sum(0) / counts.sum(0)

    def rivals(self) -> Tensor:
        """Return the other class from whose images each prototype wins most pixels (K,)."""
        return (self.counts * (1 - self._own())).argmax(0)

    def _own(self) -> Tensor:
        """Return 1 where a prototype is of a class (C, K); of its commonest, if of several."""
        owner = owners(self.membership)
        classes = torch.arange(len(self.counts), device=owner.device)
        return (classes[:, None] == owner).double()
