"""Pooled embeddings as rows equal plain loops over embeddings, and stacked rows on one pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.fitting.rows import PooledRows, widest

N, D, K = 7, 5, 3


@pytest.fixture
def embeddings() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(params=["shared", "own"])
def prototypes(request) -> Tensor:
    """Prototypes (K, D) of all images, or (N, K, D) of each its own."""
    shape = (K, D) if request.param == "shared" else (N, K, D)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def of_image(prototypes: Tensor, n: int) -> np.ndarray:
    return (prototypes if prototypes.ndim == 2 else prototypes[n]).numpy()


def test_shape_is_one_pixel(embeddings):
    source = PooledRows(embeddings)
    assert (source.grid, source.width) == ((1, 1), D)
    assert source.squared_norms.shape == (N, 1, 1)
    assert source.masses.shape == (N, 1)


def test_masses_are_squared_norms_in_double(embeddings):
    source = PooledRows(embeddings.float())
    assert source.masses.dtype == torch.float64
    expected = (embeddings.float().numpy() ** 2).sum(1)
    np.testing.assert_allclose(source.masses[:, 0], expected, rtol=1e-6)
    assert torch.equal(source.masses.float(), source.squared_norms[..., 0])


def test_rows_are_the_embeddings_of_the_images(embeddings):
    images = torch.tensor([4, 0, 4])
    found = PooledRows(embeddings).rows(images, torch.zeros(3, dtype=torch.int64))
    assert torch.equal(found, embeddings[images])


def test_select_takes_images_in_order(embeddings):
    found = PooledRows(embeddings).select(torch.tensor([6, 1, 1]))
    assert torch.equal(found.embeddings, embeddings[[6, 1, 1]])


def test_scores_equal_a_loop(embeddings, prototypes):
    found = PooledRows(embeddings).scores(prototypes)
    assert found.shape == (N, K, 1, 1)
    for n in range(N):
        own = of_image(prototypes, n)
        expected = own @ embeddings[n].numpy() - 0.5 * (own**2).sum(1)
        np.testing.assert_allclose(found[n, :, 0, 0], expected, atol=1e-12)


def test_nearest_equals_a_loop(embeddings, prototypes):
    index, distances = PooledRows(embeddings).nearest(prototypes)
    assert index.shape == distances.shape == (N, 1, 1)
    for n in range(N):
        far = ((of_image(prototypes, n) - embeddings[n].numpy()) ** 2).sum(1)
        assert index[n].item() == far.argmin()
        assert distances[n].item() == pytest.approx(far.min(), abs=1e-12)


def test_distance_to_itself_is_not_negative(embeddings):
    _, distances = PooledRows(embeddings.float()).nearest(embeddings.float())
    assert (distances >= 0).all()
    assert distances.max() < 1e-5


def test_sums_equal_a_loop(embeddings):
    members = (torch.rand(N, K, 1, 1, generator=torch.Generator().manual_seed(2)) > 0.5).double()
    found = PooledRows(embeddings).sums(members)
    for n in range(N):
        for k in range(K):
            assert torch.equal(found[n, k], members[n, k].item() * embeddings[n])


def test_pooled_rows_equal_stacked_rows_of_unit_length_on_one_pixel(embeddings, prototypes):
    """The other kind of rows divides by norms, which those of length one do not show."""
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    pooled, stacked = PooledRows(unit), StackedBlocks((unit[..., None, None],), (1.0,))
    members = (torch.rand(N, K, 1, 1, generator=torch.Generator().manual_seed(2)) > 0.5).double()
    images = torch.tensor([3, 1])
    pixels = torch.zeros(2, dtype=torch.int64)
    assert (pooled.grid, pooled.width) == (stacked.grid, stacked.width)
    assert torch.allclose(pooled.squared_norms, stacked.squared_norms)
    assert torch.allclose(pooled.scores(prototypes), stacked.scores(prototypes))
    for ours, theirs in zip(pooled.nearest(prototypes), stacked.nearest(prototypes), strict=True):
        assert torch.allclose(ours, theirs)
    assert torch.allclose(pooled.sums(members), stacked.sums(members))
    assert torch.allclose(pooled.rows(images, pixels), stacked.rows(images, pixels))


def test_widest_type_is_one_that_the_device_has():
    assert widest(torch.device("cpu")) == widest(torch.device("cuda")) == torch.float64
    assert widest(torch.device("mps")) == torch.float32
