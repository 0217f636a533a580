"""The posterior against a dense Gaussian process in NumPy, with offsets drawn explicitly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from captum_kmex.measuring.kernel import FeatureKernel
from captum_kmex.measuring.parts import coalitions, patches
from captum_kmex.measuring.posterior import Design

GRID = (6, 5)
CELLS, OFFSET, EXACT = 30, 10.0, 1e-10
NOISES = (1e-6, 1e-2, 10.0)


@dataclass
class Game:
    """What was measured of an image, dense."""

    sums: np.ndarray
    kinds: np.ndarray
    kernel: np.ndarray
    mean: np.ndarray
    values: np.ndarray
    total: float

    @classmethod
    def drawn(cls, seed: int, noise: float) -> Game:
        rng = np.random.default_rng(seed)
        labels = torch.from_numpy(rng.integers(0, 5, GRID))
        removal = coalitions([labels, patches(GRID)])
        rows = torch.from_numpy(rng.normal(size=(CELLS, 4)))
        kernel = FeatureKernel.of(rows, GRID, 0.8, 0.3, 0.01)(torch.eye(CELLS).double()).numpy()
        sums, kinds = removal.kept[2:].flatten(1).double().numpy(), removal.kinds.numpy()
        truth = np.linalg.cholesky(kernel) @ rng.normal(size=CELLS) * 3
        values = sums @ truth + np.array([2.0, -1.5])[kinds]
        values += 3 * noise**0.5 * rng.normal(size=len(values))
        mean = rng.normal(size=CELLS)
        return cls(sums, kinds, kernel, mean + (truth.sum() - mean.sum()) / CELLS, values,
                   float(truth.sum()))  # fmt: skip

    def design(self) -> Design:
        kernel = torch.from_numpy(self.kernel)
        sums, kinds = torch.from_numpy(self.sums), torch.from_numpy(self.kinds)
        return Design(sums, kinds, lambda columns: kernel @ columns)

    def given(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return tuple(torch.tensor(x, dtype=torch.float64) for x in (self.mean, self.values, self.total))

    def joint(self, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the covariance of cells and offsets, what is observed of them, and the noise."""
        prior = np.zeros((CELLS + 2, CELLS + 2))
        prior[:CELLS, :CELLS] = self.kernel
        prior[CELLS:, CELLS:] = OFFSET * np.eye(2)
        seen = np.zeros((len(self.values) + 1, CELLS + 2))
        seen[:-1, :CELLS], seen[-1, :CELLS] = self.sums, 1
        seen[:-1, CELLS:] = np.eye(2)[self.kinds]
        variances = np.full(len(seen), noise)
        variances[-1] = EXACT * (seen[-1] @ prior @ seen[-1])
        return prior, seen, variances

    def conditioned(self, noise: float) -> tuple[np.ndarray, np.ndarray, float, float]:
        """Return posterior mean, covariance, scale, and log likelihood at the best scale."""
        prior, seen, variances = self.joint(noise)
        system = seen @ prior @ seen.T + np.diag(variances)
        missed = np.append(self.values, self.total) - seen[:, :CELLS] @ self.mean
        gain = prior @ seen.T @ np.linalg.inv(system)
        scale = missed @ np.linalg.solve(system, missed) / len(missed)
        likelihood = -0.5 * len(missed) * np.log(scale) - 0.5 * np.linalg.slogdet(system)[1]
        covariance = scale * (prior - gain @ seen @ prior)
        mean = self.mean + (gain @ missed)[:CELLS]
        return mean, covariance[:CELLS, :CELLS], scale, likelihood


@pytest.mark.parametrize("noise", [1e-2, 10.0], ids=str)
def test_posterior_is_that_of_a_dense_process(noise):
    game = Game.drawn(0, noise)
    found = game.design().posterior(*game.given(), [noise])
    mean, covariance, scale, _ = game.conditioned(noise)
    assert np.allclose(found.mean.numpy(), mean, atol=1e-6 * abs(mean).max())
    assert float(found.scale) == pytest.approx(scale, rel=1e-6)
    parts = torch.arange(5)
    wanted = game.sums[:5] @ covariance @ game.sums[:5].T
    assert np.allclose(found.covariance(parts).numpy(), wanted, atol=1e-6 * wanted.max())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_likeliest_noise_is_taken(seed, noise):
    game = Game.drawn(seed, noise)
    best = max(NOISES, key=lambda n: game.conditioned(n)[3])
    found = game.design().posterior(*game.given(), NOISES)
    alone = game.design().posterior(*game.given(), [best])
    assert torch.equal(found.mean, alone.mean)
    assert best == noise  # as it was drawn: fifty measurements tell


def test_total_is_exact_whatever_the_noise():
    game = Game.drawn(1, 1.0)
    for noise in NOISES:
        found = game.design().posterior(*game.given(), [noise])
        assert float(found.mean.sum()) == pytest.approx(game.total, abs=1e-12)


def test_offsets_of_a_kind_do_not_move_the_map():
    game = Game.drawn(2, 1e-2)
    plain = game.design().posterior(*game.given(), [1e-6]).mean
    game.values = game.values + np.array([4.0, -7.0])[game.kinds]
    moved = game.design().posterior(*game.given(), [1e-6]).mean
    assert (moved - plain).abs().max() < 0.2 * plain.abs().max()  # their variance is wide, not free


def test_nothing_missed_changes_nothing():
    game = Game.drawn(3, 1e-2)
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
