"""Exact Shapley values of a game with few players."""

from __future__ import annotations

from math import comb

import torch
from torch import Tensor

__all__ = ["coalitions", "shapley_values"]


def coalitions(n_players: int) -> Tensor:
    """Return every coalition, boolean tensor (2^k, k); row s has player i where bit i of s is."""
    return (torch.arange(2**n_players)[:, None] >> torch.arange(n_players)) & 1 == 1


def shapley_values(worth: Tensor) -> Tensor:
    """Return the Shapley values (k,) of a game, from what each of its 2^k coalitions is worth.

    Shapley (1953): the mean gain of a player over all orders of joining; a coalition of s
    others counts 1 / (k * binomial(k - 1, s)).

    Args:
        worth: Float tensor (2^k,), in the order of ``coalitions``.
    """
    k = len(worth).bit_length() - 1
    if len(worth) != 2**k:
        raise ValueError(f"a game has 2^k coalitions; got {len(worth)} values")
    members = coalitions(k).to(worth.device)
    weights = torch.tensor([1 / (k * comb(k - 1, s)) for s in range(k)], dtype=worth.dtype)
    values = worth.new_zeros(k)
    for player in range(k):
        without = (~members[:, player]).nonzero()[:, 0]
        gains = worth[without + 2**player] - worth[without]
        values[player] = (weights[members[without].sum(1)] * gains).sum()
    return values
