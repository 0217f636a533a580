"""Starts on few columns: their directions against an SVD, their steps against a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from captum_kmex.clustering.kmeans import kmeans
from captum_kmex.clustering.narrow import leading_directions, narrow_starts


def long_rows(count: int, width: int = 300) -> torch.Tensor:
    """Rows that differ along six directions, and by noise along all."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(6, 6)) @ draw.normal(size=(6, width))
    rows = 2 * centres[draw.integers(6, size=count)] + draw.normal(size=(count, width)) + 3
    return torch.from_numpy(rows).float()


def test_directions_are_orthonormal_and_hold_what_an_svd_holds():
    rows = long_rows(500)
    found = leading_directions(rows, torch.ones(500), 5)
    assert found.shape == (300, 32)
    assert torch.allclose(found.T @ found, torch.eye(32), atol=1e-5)
    centred = rows - rows.mean(0)
    best = torch.linalg.svdvals(centred)[:6].square().sum()
    assert (centred @ found).square().sum() > 0.99 * best


def test_directions_of_weighted_rows_are_those_of_repeated_ones():
    rows, weights = long_rows(60), torch.arange(60) % 3 + 1
    repeated = rows.repeat_interleave(weights, 0)
    ours = leading_directions(rows, weights.float(), 5)
    theirs = leading_directions(repeated, torch.ones(len(repeated)), 5)
    for one, other in ((ours, theirs), (theirs, ours)):
        assert torch.allclose(one @ (one.T @ other[:, :6]), other[:, :6], atol=1e-2)


@pytest.mark.parametrize("width", [3, 64])
def test_rows_that_are_narrow_already_stay_as_they_are(width):
    assert leading_directions(torch.rand(100, width), torch.ones(100), 5) is None


def test_labels_and_inertias_are_those_of_a_loop_at_rest():
    rows = torch.rand(3, 40, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mass = torch.rand(3, 40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mass[2, 30:] = 0  # padding
    labels, inertias = narrow_starts(rows, mass, 4, 2, 100, 0)
    for i in range(3):
        for r in range(2):
            x, w, own = rows[i].numpy(), mass[i].numpy(), labels[i, r].numpy()
            means = np.stack(
                [np.average(x[own == k], axis=0, weights=w[own == k]) for k in range(4)]
            )
            far = ((x[:, None] - means) ** 2).sum(2)
            assert (far.argmin(1) == own).all()
            assert float(inertias[i, r]) == pytest.approx((far.min(1) * w).sum(), rel=1e-9)


def test_long_rows_end_at_an_inertia_of_ten_starts():
    rows = long_rows(1500)
    theirs = KMeans(5, n_init=10, random_state=0).fit(rows.numpy())
    found = kmeans(rows, 5)
    assert found.inertia <= 1.001 * theirs.inertia_
    means = torch.stack([rows[found.labels == k].mean(0) for k in range(5)])
    assert torch.allclose(found.centroids, means, atol=0.05)
