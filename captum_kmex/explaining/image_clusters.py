"""Each image's own clusters, for explanations that need no fit (NAVE)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from captum_kmex.clustering.gram import gram_kmeans, start_uniforms
from captum_kmex.clustering.lloyd import cluster_means, memberships
from captum_kmex.composite.resizing import resize_matrix
from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.grids import axes_of, grid_text

__all__ = ["cluster_image_rows"]

_STARTS = 8
_SEEDS = 81  # cells of the subgrid that seeds the clusters, or more if they are many


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
    pixels = math.prod(stack.grid)
    if not 1 <= n_clusters <= pixels:
        raise ValueError(
            f"n_clusters={n_clusters} should be between 1 and the {grid_text(stack.grid)} grid's "
            f"{pixels} pixels; ask for fewer clusters or choose a shallower layer"
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
        counts = members.sum(axes_of(members)).unsqueeze(2)
        means = stack.sums(members) / counts.clamp_min(1)
        centroids = torch.where(counts > 0, means, centroids)
    return centroids


def _image_start(stack: StackedBlocks, n_clusters: int, seed: int) -> Tensor:
    """Return the best of several starts on a subgrid (N, K, D)."""
    pixels = _subgrid(stack.grid, n_clusters).to(stack.blocks[0].device)
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
    places, parts = torch.unravel_index(pixels, stack.grid), []
    for block, scale in zip(stack.blocks, stack.scales, strict=True):
        own = scale.flatten(2).index_select(2, pixels)
        if block.shape[2:] == stack.grid:
            vectors = block.flatten(2).index_select(2, pixels)
        else:
            weights = block.new_ones(len(pixels), 1)
            for place, new, old in zip(places, stack.grid, block.shape[2:], strict=True):
                matrix = resize_matrix(new, old, block.dtype, block.device)
                weights = (weights.unsqueeze(2) * matrix[place].unsqueeze(1)).flatten(1)
            vectors = block.flatten(2) @ weights.T
        parts.append(vectors * own)
    return torch.cat(parts, 1).transpose(1, 2)


def _subgrid(grid: Sequence[int], n_clusters: int) -> Tensor:
    """Return flat indices of an even subgrid, the whole grid where it has few pixels."""
    cells = math.prod(grid)
    if cells <= max(_SEEDS, 4 * n_clusters):
        return torch.arange(cells)
    power = 1 / len(grid)
    side = max(math.ceil(_SEEDS**power), round((4 * n_clusters) ** power))
    counts = [min(side, size) for size in grid]
    while math.prod(counts) < n_clusters:  # of a thin grid, more along its longest sides
        longest = max(range(len(grid)), key=lambda i: grid[i] / counts[i])
        counts[longest] += 1
    places = torch.zeros(1, dtype=torch.int64)
    for size, count in zip(grid, counts, strict=True):
        along = torch.linspace(0, size - 1, count).round().long()
        places = (places[:, None] * size + along).flatten()
    return places
