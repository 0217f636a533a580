"""Pooled embeddings of labelled images: the space of the head's columns and of KMEx."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from captum_kmex.arguments import checked
from captum_kmex.attributions.classifier_prototypes import ClassifierPrototypes
from captum_kmex.attributions.kmex import KMExAttribution
from captum_kmex.attributions.one_bank import one_bank_a_call
from captum_kmex.data.batches import IndexedBatches
from captum_kmex.data.labels import class_pairs
from captum_kmex.grids import axes_of
from captum_kmex.model.reading import Reading

__all__ = ["pooled_embeddings"]


@checked
@one_bank_a_call
def pooled_embeddings(
    attribution: KMExAttribution | ClassifierPrototypes, loader: Iterable[object]
) -> tuple[Tensor, Tensor]:
    """Return the pooled embeddings (M, D) of labelled images and their classes (M,), on the CPU.

    Args:
        attribution: KMEx, fitted or not, or the head's columns; both pool the same map unless
            one was given a layer.
        loader: Yields (images, labels); an image of several classes stands once for each.

    Raises:
        HeadNotFoundError: The model has no head that tells which map to pool.
        ValueError: The loader is empty or yields no labels.
    """
    rows, labels = [], []
    for batch in IndexedBatches(loader, attribution.device):
        reading = _reading(attribution, batch.inputs)
        images, classes = class_pairs("target", batch.targets, reading.logits)
        features = reading.feature_map
        rows.append(features.mean(axes_of(features))[images].detach().cpu())
        labels.append(classes.cpu())
    if not rows:
        raise ValueError("the loader yielded no batch; pass one with at least one image")
    return torch.cat(rows), torch.cat(labels)


def _reading(
    attribution: KMExAttribution | ClassifierPrototypes, inputs: tuple[Tensor, ...]
) -> Reading:
    is_kmex = isinstance(attribution, KMExAttribution)
    at_input = is_kmex and attribution.is_fitted and attribution.bank_.at_input
    return attribution.read(inputs, None, at_input)
