"""Whose prototypes win whose pixels: how classes are confused, and by which prototypes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_kmex.arguments import checked, resolve_depth
from captum_kmex.attributions.layer_kmeans import LayerKMeansAttribution
from captum_kmex.attributions.one_bank import one_bank_a_call
from captum_kmex.data.batches import IndexedBatches, class_pairs
from captum_kmex.explaining.segments import to_classes
from captum_kmex.model.reading import plain_arithmetic

__all__ = ["PrototypeWins", "prototype_wins"]


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
        owner = self.membership if self.membership.ndim == 1 else self.membership.argmax(1)
        classes = torch.arange(len(self.counts), device=owner.device)
        return (classes[:, None] == owner).double()


@checked
@one_bank_a_call
def prototype_wins(
    attribution: LayerKMeansAttribution, loader: Iterable[object], *, depth: int | str = 0
) -> PrototypeWins:
    """Count the pixels that each prototype wins on labelled images.

    Args:
        attribution: A fitted attribution.
        loader: Yields (images, labels), labels (N,) or multi-hot (N, C).
        depth: Shallowest layer to include.

    Raises:
        NotFittedError: ``fit`` has not been called.
        ValueError: No such depth; or the loader is empty or yields no labels.
    """
    bank = attribution.bank_
    start = resolve_depth(depth, bank.layers)
    membership = bank.codebooks[start].membership.cpu()
    counts = torch.zeros(bank.n_classes, len(membership), dtype=torch.int64)
    for batch in IndexedBatches(loader, attribution.device):
        if batch.targets is None:
            raise ValueError("the loader yields no labels; yield (images, labels)")
        explainer = attribution.read(batch.inputs, None, bank.at_input, needs_head=False)
        images, classes = class_pairs("target", batch.targets, explainer.logits)
        with plain_arithmetic(explainer.logits):
            segments = explainer.segments(start).labels.flatten(1)
        flat = classes[:, None] * counts.shape[1] + segments[images]
        counts += torch.bincount(flat.flatten().cpu(), minlength=counts.numel()).view_as(counts)
    if not counts.any():
        raise ValueError("the loader yielded no batch; pass one with at least one image")
    return PrototypeWins(counts, membership)
