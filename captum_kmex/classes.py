"""The classes of a model's logits: one a logit, or two by the sign of a single one."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["class_count", "class_logits", "class_of", "class_of_logit", "predicted_classes"]


def class_logits(logits: Tensor) -> Tensor:
    """Return a logit for each class (N, C).

    A single logit z decides between two classes by its sign: they have 0 and z, whose softmax is
    the sigmoid of z.

    Args:
        logits: Float tensor (N, J), or (N,) of a single logit.
    """
    if logits.ndim == 1:
        logits = logits.unsqueeze(1)
    if logits.shape[1] > 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], 1)


def predicted_classes(logits: Tensor) -> Tensor:
    """Return the likeliest class (N,); of a single logit 1 where it is positive, else 0."""
    return class_logits(logits).argmax(1)


def class_count(n_logits: int) -> int:
    """Return the number of classes of so many logits."""
    return 2 if n_logits == 1 else n_logits


def class_of_logit(target: Tensor, logits: Tensor) -> Tensor:
    """Return the class that evidence above 0 speaks for: of a single logit, class 1.

    Args:
        target: The explained logits, an integer tensor of any shape.
        logits: Float tensor (N, J).
    """
    return torch.ones_like(target) if logits.shape[1] == 1 else target


def class_of(target: Tensor, logits: Tensor) -> Tensor:
    """Return the class (N,) that explanations of these logits are about.

    Args:
        target: The explained logits (N,).
        logits: Float tensor (N, J); of a single one, its sign tells the class.
    """
    return predicted_classes(logits) if logits.shape[1] == 1 else target
