"""What stands in place of removed cells, in any number of dimensions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_kmex.measuring.fills import FILLS, blurred

GRIDS = [(9,), (7, 12), (5, 4, 6), (1, 1)]


def drawn(grid) -> torch.Tensor:
    return torch.randn(1, 3, *grid, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_mean_is_that_of_each_channel(grid):
    features = drawn(grid)
    found = FILLS["mean"](features).numpy()
    for channel in range(3):
        assert np.allclose(found[0, channel], features[0, channel].numpy().mean())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_zero_is_zero(grid):
    assert torch.equal(FILLS["zero"](drawn(grid)), torch.zeros(1, 3, *grid).double())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_blur_leaves_a_constant_image_as_it_is(grid):
    image = torch.full((1, 3, *grid), 0.7, dtype=torch.float64)
    assert torch.allclose(FILLS["blur"](image), image, atol=1e-14)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_blur_is_the_weighted_mean_of_all_cells(grid):
    features = drawn(grid)
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, len(grid))
    apart = (places[:, None] - places[None]) / (0.1 * np.array(grid))
    weights = np.exp(-0.5 * (apart**2).sum(-1))
    weights /= weights.sum(1, keepdims=True)
    wanted = features.flatten(2).numpy() @ weights.T
    assert np.allclose(blurred(features).flatten(2).numpy(), wanted)
