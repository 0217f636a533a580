"""What is thought of an image before its parts are removed: its allocated evidence."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_kmex.exceptions import HeadNotFoundError, NotFittedError
from captum_kmex.explaining.evidence import Question
from captum_kmex.explaining.explainer import Explainer
from captum_kmex.explaining.segmenters import Competition

__all__ = ["allocated_maps", "shared_out"]


def allocated_maps(
    explainer: Explainer, question: Question, depth: int, competition: Competition
) -> Tensor:
    """Return the allocated maps of a depth (N, 1, H, W); flat where the model has no head."""
    try:
        return explainer.density(question, depth, competition)
    except (HeadNotFoundError, NotFittedError):
        return torch.ones_like(explainer.stack.suffix(depth).squared_norms).unsqueeze(1)


def shared_out(total: Tensor, shares: Tensor) -> Tensor:
    """Share a total () out by the positive part of some numbers (P,); evenly if none is."""
    positive = shares.clamp_min(0)
    if not positive.sum() > 0:
        positive = torch.ones_like(positive)
    return positive * (total / positive.sum())
