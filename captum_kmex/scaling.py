"""Powers of two that bring values near 1: exact, so only overflow and underflow go."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["unit_scale"]


def unit_scale(values: Tensor) -> Tensor:
    """Return, for each first index, the power of two that brings its largest value near 1.

    A product with it changes no digit, unlike a quotient by the largest value itself; squares
    and norms of the product neither overflow nor vanish. Zeros have a finite factor.

    Args:
        values: Float tensor (N, ...).

    Returns:
        Float tensor (N, 1, ...) of as many dimensions.
    """
    least = torch.finfo(values.dtype).tiny
    dims = tuple(range(1, values.ndim))
    largest = torch.linalg.vector_norm(values, torch.inf, dim=dims, keepdim=True)
    exponent = largest.clamp_min(least).log2().floor()
    # one over the greatest numbers would be subnormal, which some devices take for zero
    return torch.exp2(-exponent.clamp_max(-math.log2(least)))
