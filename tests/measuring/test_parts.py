"""Patches of grids of any dimension, and the coalitions that are kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from captum_kmex.measuring.parts import coalitions, patches

GRIDS = [(40,), (28, 28), (14, 14), (16, 40), (7, 7), (112, 10), (9, 9, 9), (4, 20, 6)]
TINY = [(1,), (1, 1), (1, 7), (7, 1), (2, 2), (1, 1, 1), (3, 1, 2)]


def is_box(cells: Tensor) -> bool:
    """Whether some cells of a grid are all of those between their corners."""
    places = cells.nonzero()
    sides = places.amax(0) - places.amin(0) + 1
    return len(places) == math.prod(sides.tolist())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_patches_are_some_twenty_boxes(grid):
    found = patches(grid)
    assert found.shape == grid
    count = int(found.max()) + 1
    assert 14 <= count <= 36
    assert found.unique().tolist() == list(range(count))  # no gap, and every cell is of one
    assert all(is_box(found == box) for box in range(count))


@pytest.mark.parametrize("grid", [(28, 28), (40,), (9, 9, 9)], ids=str)
def test_patches_are_near_to_cubes_of_one_size(grid):
    found = patches(grid)
    areas = found.flatten().bincount()
    assert areas.max() <= 2 * areas.min()
    sides = (found == 0).nonzero().amax(0) + 1
    assert sides.max() <= 2 * sides.min()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_shifted_patches_are_boxes_that_cross_the_others(grid):
    plain, shifted = patches(grid), patches(grid, is_shifted=True)
    count = int(shifted.max()) + 1
    assert shifted.unique().tolist() == list(range(count))
    assert count > int(plain.max()) + 1
    assert all(is_box(shifted == box) for box in range(count))
    inner = shifted[tuple(size // 2 for size in grid)]
    assert len(plain[shifted == inner].unique()) > 1


@pytest.mark.parametrize("grid", TINY, ids=str)
@pytest.mark.parametrize("is_shifted", [False, True], ids=["plain", "shifted"])
def test_patches_of_a_tiny_grid_are_at_most_its_cells(grid, is_shifted):
    found = patches(grid, is_shifted=is_shifted)
    assert found.shape == grid
    assert found.unique().tolist() == list(range(int(found.max()) + 1))
    if not is_shifted:
        assert int(found.max()) + 1 == math.prod(grid)


@pytest.mark.parametrize("grid", [(12,), (5, 6), (3, 4, 2)], ids=str)
def test_coalitions_are_nothing_everything_all_but_a_part_and_a_part(grid):
    labels = torch.arange(math.prod(grid)).view(grid) % 3 * 4  # with gaps
    others = patches(grid)
    removal = coalitions([labels, others])
    parts = [labels == 0, labels == 4, labels == 8]
    parts += [others == box for box in range(int(others.max()) + 1)]
    wanted = [np.zeros(grid, bool), np.ones(grid, bool)]
    wanted += [~part.numpy() for part in parts] + [part.numpy() for part in parts]
    assert np.array_equal(removal.kept.numpy(), np.stack(wanted))
    assert len(removal) == 2 + 2 * len(parts)
    assert removal.kinds.tolist() == [0] * len(parts) + [1] * len(parts)
    assert removal.without.tolist() == [2, 3, 4]
    assert [bool((removal.kept[i] == (labels == 4)).all()) for i in removal.alone] == [0, 1, 0]
