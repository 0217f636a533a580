"""The posterior against a dense Gaussian process in NumPy, with offsets drawn explicitly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dense import Game

from captum_kmex.measuring.kernel import FeatureKernel
from captum_kmex.measuring.parts import coalitions, patches
from captum_kmex.measuring.posterior import Design

GRID = (6, 5)
CELLS = 30
NOISES = (1e-6, 1e-2, 10.0)


def drawn(seed: int, noise: float) -> Game:
    """Return a game as the process itself would draw it, with a prior mean beside the truth."""
    rng = np.random.default_rng(seed)
    removal = coalitions([torch.from_numpy(rng.integers(0, 5, GRID)), patches(GRID)])
    rows = torch.from_numpy(rng.normal(size=(CELLS, 4)))
    kernel = FeatureKernel.of(rows, GRID, 0.8, 0.3, 0.01)(torch.eye(CELLS).double()).numpy()
    sums, kinds = removal.kept[2:].flatten(1).double().numpy(), removal.kinds.numpy()
    truth = np.linalg.cholesky(kernel) @ rng.normal(size=CELLS) * 3
    values = sums @ truth + np.array([2.0, -1.5])[kinds]
    values += 3 * noise**0.5 * rng.normal(size=len(values))
    mean, total = rng.normal(size=CELLS), float(truth.sum())
    return Game(sums, kinds, kernel, mean + (total - mean.sum()) / CELLS, values, total)


@pytest.mark.parametrize("noise", [1e-2, 10.0], ids=str)
def test_posterior_is_that_of_a_dense_process(noise):
    game = drawn(0, noise)
    found = game.design().posterior(*game.given(), [noise])
    mean, _ = game.known(np.eye(CELLS, CELLS + 2), noise)
    assert np.allclose(found.mean.numpy(), mean, atol=1e-6 * abs(mean).max())
    assert float(found.scale) == pytest.approx(game.scale(noise), rel=1e-6)
    parts = np.hstack([game.sums[:5], np.zeros((5, 2))])  # their evidence, without an offset
    _, covariance = game.known(parts, noise)
    given = found.covariance(torch.arange(5)).numpy()
    assert np.allclose(given, covariance, atol=1e-6 * covariance.max())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_likeliest_noise_is_taken(seed, noise):
    game = drawn(seed, noise)
    best = max(NOISES, key=game.likelihood)
    found = game.design().posterior(*game.given(), NOISES)
    alone = game.design().posterior(*game.given(), [best])
    assert torch.equal(found.mean, alone.mean)
    assert best == noise  # as it was drawn: fifty measurements tell


def test_total_is_exact_whatever_the_noise():
    game = drawn(1, 1.0)
    for noise in NOISES:
        found = game.design().posterior(*game.given(), [noise])
        assert float(found.mean.sum()) == pytest.approx(game.total, abs=1e-12)


def test_offsets_of_a_kind_do_not_move_the_map():
    game = drawn(2, 1e-2)
    plain = game.design().posterior(*game.given(), [1e-6]).mean
    game.values = game.values + np.array([4.0, -7.0])[game.kinds]
    moved = game.design().posterior(*game.given(), [1e-6]).mean
    assert (moved - plain).abs().max() < 0.2 * plain.abs().max()  # their variance is wide, not free


def test_nothing_missed_changes_nothing():
    game = drawn(3, 1e-2)
    values = game.sums @ game.mean
    mean, total = torch.tensor(game.mean), torch.tensor(game.mean.sum())
    found = game.design().posterior(mean, torch.tensor(values), total, NOISES)
    assert torch.allclose(found.mean, mean, atol=1e-9)
    assert found.covariance(torch.arange(5)).abs().max() < 1e-20


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (2,)], ids=str)
def test_tiny_grids_are_solved(grid):
    cells = int(np.prod(grid))
    removal = coalitions([torch.zeros(grid, dtype=torch.int64), patches(grid)])
    kernel = FeatureKernel.of(torch.zeros(cells, 3), grid, 0.8, 0.3, 0.01)
    design = Design(removal.kept[2:].flatten(1).double(), removal.kinds, kernel)
    values, total = torch.rand(len(removal) - 2).double(), torch.tensor(2.0).double()
    found = design.posterior(torch.full((cells,), 2 / cells).double(), values, total, NOISES)
    assert float(found.mean.sum()) == pytest.approx(2)
    assert found.mean.isfinite().all()
