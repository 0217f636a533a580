"""Whose prototypes win whose pixels: how classes are confused, and by which prototypes."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from captum_kmex.arguments import checked
from captum_kmex.attributions.layer_kmeans import LayerKMeansAttribution
from captum_kmex.attributions.one_bank import one_bank_a_call
from captum_kmex.data.batches import IndexedBatches
from captum_kmex.data.labels import class_pairs
from captum_kmex.explaining.pixel_wins import PrototypeWins
from captum_kmex.model.reading import plain_arithmetic

__all__ = ["PrototypeWins", "prototype_wins"]


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
