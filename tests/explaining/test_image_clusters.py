"""Each image's own clusters against scikit-learn, in any batch, and in degenerate cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans

from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.explaining.image_clusters import cluster_image_rows


def inertia(rows: torch.Tensor, centroids: torch.Tensor) -> float:
    return float(torch.cdist(rows.double(), centroids.double()).amin(1).square().sum())


def smooth_stack(seed: int, images: int = 1) -> StackedBlocks:
    """Feature maps as CNNs make them: smooth, non-negative, coarser with depth."""
    generator = torch.Generator().manual_seed(seed)

    def block(width: int, size: int) -> torch.Tensor:
        coarse = torch.randn(images, width, 5, 5, generator=generator)
        return F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False).relu()

    return StackedBlocks((block(16, 28), block(24, 14), block(32, 7)), (1.0, 1.0, 1.0))


def dense_rows(stack: StackedBlocks) -> torch.Tensor:
    pixels = torch.arange(stack.grid[0] * stack.grid[1])
    return stack.rows(torch.zeros_like(pixels), pixels)


def test_image_clusters_have_median_inertia_within_one_percent_of_sklearn():
    ratios = []
    for seed in range(15):
        stack = smooth_stack(seed)
        rows = dense_rows(stack)
        found = inertia(rows, cluster_image_rows(stack, 5)[0])
        ratios.append(found / KMeans(5, n_init=10, random_state=0).fit(rows.numpy()).inertia_)
    assert np.median(ratios) <= 1.01, sorted(ratios)


def test_image_clusters_do_not_depend_on_batch():
    together = smooth_stack(0, images=4)
    everyone = cluster_image_rows(together, 5)
    for i in range(4):
        alone = StackedBlocks(tuple(b[i : i + 1] for b in together.blocks), together.weights)
        # batched and single products may round apart in the last digits
        assert torch.allclose(cluster_image_rows(alone, 5)[0], everyone[i], atol=1e-5)


def test_image_clusters_follow_a_permuted_batch():
    stack = smooth_stack(1, images=4)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = StackedBlocks(tuple(b[order] for b in stack.blocks), stack.weights)
    expected = cluster_image_rows(stack, 5)[order]
    assert torch.allclose(cluster_image_rows(shuffled, 5), expected, atol=1e-5)


def test_image_clusters_of_one_are_the_mean():
    stack = smooth_stack(2)
    centroid = cluster_image_rows(stack, 1)[0, 0]
    assert torch.allclose(centroid, dense_rows(stack).mean(0), atol=1e-5)


def test_image_clusters_of_flat_image_stay_finite():
    stack = StackedBlocks((torch.ones(2, 3, 6, 6),), (1.0,))
    assert torch.isfinite(cluster_image_rows(stack, 4)).all()


@pytest.mark.parametrize("k", [0, 13], ids=["zero", "more_than_pixels"])
def test_image_clusters_raise_when_they_do_not_fit_pixels(k):
    stack = StackedBlocks((torch.rand(1, 3, 3, 4),), (1.0,))
    with pytest.raises(ValueError, match=f"n_clusters={k} should be between 1 and the 3x4"):
        cluster_image_rows(stack, k)
