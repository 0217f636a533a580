"""For which classes an image counts: by its label, or by what the model predicts."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from captum_kmex.classes import class_count, predicted_classes

__all__ = ["Labels", "class_pairs"]

Labels = Literal["target", "predicted"] | None


def class_pairs(labels: Labels, targets: Tensor | None, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return (image, class) pairs, an image once for each class it counts for.

    Args:
        labels: ``"target"``: the loader's labels; ``"predicted"`` or ``None``: the model's
            likeliest class.
        targets: Integer tensor (N,) or multi-hot (N, C); of a single logit also 0 and 1 in
            floating point, (N,) or (N, 1).
        logits: Float tensor (N, J).

    Returns:
        Two integer tensors (M,).

    Raises:
        ValueError: No labels, labels that are no integers, or labels out of range.
    """
    count, n_classes = len(logits), class_count(logits.shape[1])
    everyone = torch.arange(count, device=logits.device)
    if labels != "target":
        return everyone, predicted_classes(logits)
    if targets is None:
        raise ValueError(
            "the loader yields no labels, but labels='target' needs them; yield (images, "
            "labels), or fit with labels='predicted' or labels=None"
        )
    if logits.shape[1] == 1:
        targets = _signs(targets)
    if targets.ndim == 2:
        return _multi_hot_pairs(targets, count, n_classes)
    if targets.is_floating_point() or targets.shape != (count,):
        raise ValueError(
            f"labels must be integers ({count},) or multi-hot ({count}, {n_classes}); got "
            f"{targets.dtype} of shape {tuple(targets.shape)}"
        )
    outside = targets[(targets < 0) | (targets >= n_classes)]
    if len(outside):
        raise ValueError(_out_of_range(int(outside[0]), logits.shape[1]))
    return everyone, targets.long()


def _signs(targets: Tensor) -> Tensor:
    """Return the labels of a single logit as integers (N,) where each is 0 or 1."""
    is_column = targets.ndim == 1 or (targets.ndim == 2 and targets.shape[1] == 1)
    is_binary = bool(((targets == 0) | (targets == 1)).all())
    return targets.flatten().long() if is_column and is_binary else targets


def _out_of_range(label: int, n_logits: int) -> str:
    if n_logits == 1:
        return (
            f"label {label} is out of range for a single logit, whose sign tells two classes; "
            "labels must be 0 or 1"
        )
    return (
        f"label {label} is out of range for {n_logits} logits; labels must be 0 to "
        f"{n_logits - 1}, in the order of the model's outputs"
    )


def _multi_hot_pairs(targets: Tensor, count: int, n_classes: int) -> tuple[Tensor, Tensor]:
    is_binary = bool(((targets == 0) | (targets == 1)).all())
    if targets.shape != (count, n_classes) or not is_binary:
        raise ValueError(
            f"multi-hot labels must be 0 or 1 of shape ({count}, {n_classes}); got shape "
            f"{tuple(targets.shape)} with values {targets.min():g} to {targets.max():g}"
        )
    images, classes = targets.nonzero(as_tuple=True)
    return images, classes
