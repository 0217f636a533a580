"""Margins and distances of pooled embeddings, against a loop over centroids and positions."""

from __future__ import annotations

import pytest
import torch
from nets import make_net

from captum_kmex import KMExAttribution
from captum_kmex.explaining.margins import CentroidMargins, squared_distances


@pytest.fixture
def margins(images, labels) -> CentroidMargins:
    attr = KMExAttribution(make_net(), "stage3", n_prototypes=2).fit([(images, labels)], n_init=1)
    return CentroidMargins(attr.bank_, attr.read(images[:5]).feature_map)


def nearest(margins: CentroidMargins, image: int, c: int) -> torch.Tensor:
    book, h = margins.bank.codebooks[0], margins.features[image].mean((1, 2))
    own = [p for p, owner in zip(book.centroids, book.membership, strict=True) if owner == c]
    return min(own, key=lambda p: float((h - p).square().sum()))


def test_nearest_is_a_loop_over_centroids(margins):
    least, _ = margins.nearest
    for i in range(5):
        for c in range(3):
            h = margins.features[i].mean((1, 2))
            expected = (h - nearest(margins, i, c)).square().sum()
            torch.testing.assert_close(least[i, c], expected)


@pytest.mark.parametrize("contrast", [None, 2])
def test_margin_is_a_mean_of_differences_of_squared_distances(margins, contrast):
    target = torch.zeros(5, dtype=torch.int64)
    against = None if contrast is None else torch.full_like(target, contrast)
    density, total = margins.margin(target, against)
    torch.testing.assert_close(density.mean((1, 2, 3)), total)
    for i in range(5):
        rivals = [1, 2] if contrast is None else [contrast]
        h, a = margins.features[i].mean((1, 2)), nearest(margins, i, 0)
        b = min((nearest(margins, i, c) for c in rivals), key=lambda p: (h - p).square().sum())
        cells = margins.features[i].flatten(1).T
        expected = [(2 * (cell - (a + b) / 2) * (a - b)).sum() for cell in cells]
        torch.testing.assert_close(density[i].flatten(), torch.stack(expected))
        torch.testing.assert_close(total[i], (h - b).square().sum() - (h - a).square().sum())


def test_distance_is_a_mean_over_positions(margins):
    density, total = margins.distance(torch.ones(5, dtype=torch.int64))
    torch.testing.assert_close(density.mean((1, 2, 3)), total)
    for i in range(5):
        h = margins.features[i].mean((1, 2))
        torch.testing.assert_close(total[i], (h - nearest(margins, i, 1)).square().sum())


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_squared_distances_are_never_negative(scale):
    rows = scale * torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    found = squared_distances(rows, rows)
    assert (found >= 0).all()
    assert not found.diagonal().any()
