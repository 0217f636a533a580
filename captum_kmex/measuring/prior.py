"""What is thought of an image before its parts are removed: its allocated evidence."""

from __future__ import annotations

from collections.abc import Sequence

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
    explainer: Explainer, questions: Sequence[Question], depth: int, competition: Competition
) -> tuple[list[Tensor], Segmentation]:
    """Return where the head's evidence for each question is allocated, and the segments.

    The maps (N, 1, H, W) are the mean of the head's own and of that carried down to the segments;
    flat where the model has no head.
    """
    stack = explainer.stack.suffix(depth)
    try:
        *_, found = explainer.evidence(questions, depth, competition)
    except (HeadNotFoundError, NotFittedError):
        flat = torch.ones_like(stack.squared_norms).unsqueeze(1)
        return [flat] * len(questions), explainer.segments(depth, competition)
    heads = [question.density(*explainer.head_and_map) for question in questions]
    own = [resize_keeping_mean(density, stack.grid) for density in heads]
    segments = found.averaged or explainer.segments(depth, competition)
    return [(a + b) / 2 for a, b in zip(own, found.densities, strict=True)], segments


def shared_out(total: Tensor, shares: Tensor) -> Tensor:
    """Share a total () out by those of some numbers (P,) that have its sign; evenly if none has."""
    own = (-shares if total < 0 else shares).clamp_min(0)
    if not own.sum() > 0:
        own = torch.ones_like(own)
    return own * (total / own.sum())
