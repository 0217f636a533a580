"""What is thought of an image before its parts are removed: its allocated evidence."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_kmex.composite.resizing import resize_keeping_mean
from captum_kmex.exceptions import HeadNotFoundError, NotFittedError
from captum_kmex.explaining.evidence import Question
from captum_kmex.explaining.explainer import Explainer
from captum_kmex.explaining.segmentation import Segmentation
from captum_kmex.explaining.segmenters import Competition

__all__ = ["allocated_maps", "shared_out"]


def allocated_maps(
    explainer: Explainer, question: Question, depth: int, competition: Competition
) -> tuple[Tensor, Segmentation]:
    """Return maps (N, 1, H, W) that lie where the head's evidence is allocated, and the segments.

    The maps are the mean of the head's own and of that carried down to the segments; flat where
    the model has no head.
    """
    stack = explainer.stack.suffix(depth)
    try:
        *_, found = explainer.evidence([question], depth, competition)
    except (HeadNotFoundError, NotFittedError):
        flat = torch.ones_like(stack.squared_norms).unsqueeze(1)
        return flat, explainer.segments(depth, competition)
    own = resize_keeping_mean(question.density(*explainer.head_and_map), stack.grid)
    segments = found.averaged or explainer.segments(depth, competition)
    return (own + found.densities[0]) / 2, segments


def shared_out(total: Tensor, shares: Tensor) -> Tensor:
    """Share a total () out by those of some numbers (P,) that have its sign; evenly if none has."""
    own = (-shares if total < 0 else shares).clamp_min(0)
    if not own.sum() > 0:
        own = torch.ones_like(own)
    return own * (total / own.sum())
