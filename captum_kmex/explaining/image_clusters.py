"""Each image's own clusters, for explanations that need no fit (NAVE)."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_kmex.clustering.gram import gram_kmeans, start_uniforms
from captum_kmex.clustering.lloyd import cluster_means, memberships
from captum_kmex.composite.resizing import resize_matrix
from captum_kmex.composite.stack import StackedBlocks

__all__ = ["cluster_image_rows"]

_STARTS = 8
_SEED_GRID = 9  # cells along each side of the subgrid that seeds the clusters


def cluster_image_rows(
    stack: StackedBlocks, n_clusters: int, *, max_iter: int = 8, seed: int = 0
) -> Tensor:
    """Cluster each image's own pixels; no fit, no data (NAVE).

    The best of several starts on a subgrid is refined by exact Lloyd steps over all pixels at
    the blocks' own resolution. Every image draws the same random numbers, so it gets the same
    clusters in whatever batch it stands.

    Args:
        stack: The batch's composite.
        n_clusters: Clusters an image, at most the number of its pixels.
        max_iter: Lloyd steps over all pixels.
        seed: Seed of k-means++.

    Returns:
        Float tensor (N, K, D), centroids of each image.

    Raises:
        ValueError: More clusters than pixels.

    Reference:
        Boubekki et al., NAVE (2024).
    """
    height, width = stack.grid
    if not 1 <= n_clusters <= height * width:
        raise ValueError(
            f"n_clusters={n_clusters} should be between 1 and the {height}x{width} grid's "
            f"{height * width} pixels; ask for fewer clusters or choose a shallower layer"
        )
    centroids = _image_start(stack, n_clusters, seed)
    previous: Tensor | None = None
    for _ in range(max_iter):
        _, labels = stack.best(centroids)
        # an image at rest stays so: when all are, more steps would change nothing
        if previous is not None and torch.equal(labels, previous):
            break
        previous = labels
        members = memberships(labels.flatten(1), n_clusters, centroids).unflatten(2, stack.grid)
        counts = members.sum((2, 3)).unsqueeze(2)
        means = stack.sums(members) / counts.clamp_min(1)
        centroids = torch.where(counts > 0, means, centroids)
    return centroids


def _image_start(stack: StackedBlocks, n_clusters: int, seed: int) -> Tensor:
    """Return the best of several starts on a subgrid (N, K, D)."""
    pixels = _subgrid(*stack.grid, n_clusters).to(stack.blocks[0].device)
    images = torch.arange(len(stack.blocks[0]), device=pixels.device)
    rows = _rows_at(stack, pixels)
    uniforms = start_uniforms(n_clusters, _STARTS, torch.Generator().manual_seed(seed))
    weights = torch.ones_like(rows[..., 0])
    labels, inertias = gram_kmeans(rows @ rows.transpose(1, 2), weights, uniforms)
    best = _in_order_of_appearance(labels[images, inertias.argmin(1)], n_clusters)
    return cluster_means(memberships(best, n_clusters, rows), rows)


def _in_order_of_appearance(labels: Tensor, n_clusters: int) -> Tensor:
    """Number clusters (N, M) by their first pixel, whatever start they came from."""
    count = labels.shape[1]
    places = torch.arange(count, device=labels.device).expand_as(labels)
    first = labels.new_full((len(labels), n_clusters), count)
    first = first.scatter_reduce(1, labels, places, "amin")
    return first.argsort(dim=1, stable=True).argsort(1).gather(1, labels)


def _rows_at(stack: StackedBlocks, pixels: Tensor) -> Tensor:
    """Return the composite rows (N, M, D) of the same pixels of every image."""
    (height, width), parts = stack.grid, []
    for block, scale in zip(stack.blocks, stack.scales, strict=True):
        own = scale.flatten(2).index_select(2, pixels)
        if block.shape[2:] == stack.grid:
            vectors = block.flatten(2).index_select(2, pixels)
        else:
            down = resize_matrix(height, block.shape[2], block.dtype, block.device)
            across = resize_matrix(width, block.shape[3], block.dtype, block.device)
            weights = down[pixels // width, :, None] * across[pixels % width, None]
            vectors = block.flatten(2) @ weights.flatten(1).T
        parts.append(vectors * own)
    return torch.cat(parts, 1).transpose(1, 2)


def _subgrid(height: int, width: int, n_clusters: int) -> Tensor:
    """Return flat indices of an even subgrid, the whole grid where it has few pixels."""
    if height * width <= max(_SEED_GRID**2, 4 * n_clusters):
        return torch.arange(height * width)
    side = max(_SEED_GRID, round((4 * n_clusters) ** 0.5))
    rows = torch.linspace(0, height - 1, min(side, height)).round().long()
    columns = torch.linspace(0, width - 1, min(side, width)).round().long()
    return (rows[:, None] * width + columns).flatten()
