"""What is thought of an image before its parts are removed: its allocated evidence."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_kmex.composite.resizing import resize_keeping_mean
from captum_kmex.exceptions import HeadNotFoundError, NotFittedError
from captum_kmex.explaining.evidence import Question
from captum_kmex.explaining.explainer import Explainer
from captum_kmex.explaining.segmenters import Competition

__all__ = ["allocated_maps", "shared_out"]


def allocated_maps(
    explainer: Explainer, question: Question, depth: int, competition: Competition
) -> Tensor:
    """Return maps (N, 1, H, W) that lie where the head's evidence is allocated.

    They are the mean of the head's own map and of that carried down to segments; flat where the
    model has no head.
    """
    stack = explainer.stack.suffix(depth)
    try:
        own = question.density(*explainer.head_and_map)
        return (
            resize_keeping_mean(own, stack.grid) + explainer.density(question, depth, competition)
        ) / 2
    except (HeadNotFoundError, NotFittedError):
        return torch.ones_like(stack.squared_norms).unsqueeze(1)


def shared_out(total: Tensor, shares: Tensor) -> Tensor:
    """Share a total () out by those of some numbers (P,) that have its sign; evenly if none has."""
    own = (-shares if total < 0 else shares).clamp_min(0)
    if not own.sum() > 0:
        own = torch.ones_like(own)
    return own * (total / own.sum())
