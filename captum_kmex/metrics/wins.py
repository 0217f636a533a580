"""Whose prototypes win whose pixels: how classes are confused, and by which prototypes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_kmex.arguments import checked
from captum_kmex.arguments.inputs import check_inputs
from captum_kmex.attributions.layer_kmeans import LayerKMeansAttribution
from captum_kmex.attributions.one_bank import one_bank_a_call
from captum_kmex.attributions.prototype_attribution import plain_arithmetic
from captum_kmex.classes import predicted_classes
from captum_kmex.data.labels import class_pairs
from captum_kmex.explaining.segmentation import SegmentOptions
from captum_kmex.explaining.segments import to_classes

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
    start = bank.depth(depth)
    membership = bank.codebooks[start].membership.cpu()
    counts = torch.zeros(bank.n_classes, len(membership), dtype=torch.int64)
    for batch in attribution._batches(loader):
        if batch.targets is None:
            raise ValueError("the loader yields no labels; yield (images, labels)")
        logits, segments = _segments(attribution, batch.inputs, start)
        images, classes = class_pairs("target", batch.targets, logits)
        flat = classes[:, None] * counts.shape[1] + segments[images]
        counts += torch.bincount(flat.flatten().cpu(), minlength=counts.numel()).view_as(counts)
    if not counts.any():
        raise ValueError("the loader yielded no batch; pass one with at least one image")
    return PrototypeWins(counts, membership)


def _segments(
    attribution: LayerKMeansAttribution, inputs: tuple[Tensor, ...], start: int
) -> tuple[Tensor, Tensor]:
    """Return the logits (N, J) and the prototype of each pixel (N, H*W) of one pass."""
    images = check_inputs(inputs)
    passed = attribution._pass(images, None, attribution.bank_.at_input, needs_head=False)
    predicted = predicted_classes(passed.logits)
    with plain_arithmetic(images[0]):
        found = attribution._segment(attribution._stack(passed), start, predicted, SegmentOptions())
    return passed.logits, found.labels.flatten(1)
