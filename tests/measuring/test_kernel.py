"""The kernel of features and places against its formula, dense."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_kmex.measuring import kernel as module
from captum_kmex.measuring.kernel import FeatureKernel

LIKENESS, REACH, OWN = 0.7, 0.25, 0.05


def dense(rows: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """Return exp(-d² / 2 l² mean d²) exp(-r² / 2 q²) / P, and own / P on the diagonal."""
    places = np.stack([i / n for i, n in zip(np.indices(grid), grid, strict=True)], -1)
    places = places.reshape(-1, len(grid))
    far = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    apart = ((places[:, None] - places[None]) ** 2).sum(-1)
    alike = np.exp(-far / (2 * LIKENESS**2 * far.mean())) * np.exp(-apart / (2 * REACH**2))
    return (alike + OWN * np.eye(len(rows))) / len(rows)


@pytest.mark.parametrize("grid", [(11,), (4, 6), (3, 2, 4)], ids=str)
@pytest.mark.parametrize("strip", [2**22, 50, 1], ids=["whole", "strips", "rows"])
def test_kernel_times_columns_is_the_dense_product(grid, strip, monkeypatch):
    monkeypatch.setattr(module, "_STRIP", strip)
    generator = torch.Generator().manual_seed(0)
    cells = int(np.prod(grid))
    rows = 50 + torch.randn(cells, 5, generator=generator).double()  # far from zero
    columns = torch.randn(cells, 3, generator=generator).double()
    found = FeatureKernel.of(rows, grid, LIKENESS, REACH, OWN)(columns)
    assert np.allclose(found.numpy(), dense(rows.numpy(), grid) @ columns.numpy(), rtol=1e-9)


@pytest.mark.parametrize("grid", [(1, 1), (3, 3)], ids=str)
def test_features_alike_everywhere_leave_places_alone(grid):
    rows = torch.ones(int(np.prod(grid)), 4)
    kernel = FeatureKernel.of(rows, grid, LIKENESS, REACH, OWN)
    other = FeatureKernel.of(7 * rows, grid, LIKENESS, REACH, OWN)
    eye = torch.eye(len(rows)).double()
    assert torch.equal(kernel(eye), other(eye))
    assert torch.allclose(kernel(eye).diagonal(), torch.tensor((1 + OWN) / len(rows)).double())
