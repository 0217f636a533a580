"""Rank correlation of what maps say and what happens, without the noise of rounding."""

from __future__ import annotations

import torch
from scipy.stats import rankdata
from torch import Tensor

__all__ = ["rank_correlation", "spearman", "steady"]

_MIN_ENTRIES = 3  # two have a rank correlation of 1 or -1


def spearman(a: Tensor, b: Tensor, known: Tensor) -> Tensor:
    """Return the rank correlation of each row, ties sharing their mean rank.

    Args:
        a: Float tensor (n, P).
        b: Float tensor (n, P).
        known: Which entries count, boolean tensor (n, P).

    Returns:
        Double tensor (n,), in [-1, 1]; 0 where one side is constant, NaN where fewer than three
        entries count.
    """
    rows = zip(a.double(), b.double(), known, strict=True)
    return torch.stack([rank_correlation(x[k], y[k]) for x, y, k in rows])


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return the rank correlation of two double tensors (P,) as ``spearman`` does, a scalar."""
    if len(a) < _MIN_ENTRIES:
        return torch.tensor(torch.nan, dtype=torch.float64)
    x, y = (torch.from_numpy(rankdata(side.numpy())) - (len(a) + 1) / 2 for side in (a, b))
    scale = (x.square().sum() * y.square().sum()).sqrt()
    return (x * y).sum() / scale if scale else torch.zeros_like(scale)


def steady(values: Tensor) -> Tensor:
    """Return rows (n, P) without their last digits, so that rounding errors break no tie."""
    scale = values.abs().amax(1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    return (values / scale).round(decimals=6) * scale
