from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from benchmarks.methods.systems.shapley import coalitions, shapley_values


def test_shapley_values_are_the_mean_gain_over_all_orders():
    k = 4
    worth = torch.randn(2**k, generator=torch.Generator().manual_seed(0)).double()
    expected = np.zeros(k)
    orders = list(permutations(range(k)))
    for order in orders:
        joined = 0
        for player in order:
            expected[player] += worth[joined | 1 << player] - worth[joined]
            joined |= 1 << player
    torch.testing.assert_close(shapley_values(worth), torch.from_numpy(expected / len(orders)))


def test_shapley_values_of_an_additive_game_are_the_players_worths():
    alone = torch.tensor([3.0, -1.0, 0.5])
    torch.testing.assert_close(shapley_values(coalitions(3).float() @ alone), alone)


def test_shapley_refuses_what_is_no_game():
    with pytest.raises(ValueError, match="got 6 values"):
        shapley_values(torch.zeros(6))
