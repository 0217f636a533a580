"""k-means: k-means++ and Lloyd with restarts, over many independent problems at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_kmex.composite import StackedBlocks

__all__ = ["KMeansResult", "cluster_image_rows", "kmeans"]

_SEED_ROWS = 2048  # restarts compete on at most this many rows, the best see them all
_TIE = 1e-4  # relative difference of inertia below which two solutions are the same
_FINALISTS = 3  # best starts that are finished on all rows
_IMAGE_STARTS = 8  # starts of an image's own clusters
_SEED_GRID = 9  # cells along each side of the subgrid that seeds an image's own clusters


@dataclass(frozen=True)
class KMeansResult:
    """A solved k-means problem.

    Attributes:
        centroids: Float tensor (K, D).
        labels: Index tensor (M,).
        inertia: Sum of squared distances to the nearest centroid.
        n_iter: Lloyd steps on all rows.
    """

    centroids: Tensor
    labels: Tensor
    inertia: float
    n_iter: int


def kmeans(
    rows: Tensor,
    n_clusters: int,
    *,
    n_init: int = 10,
    max_iter: int = 100,
    tol: float = 1e-4,
    generator: torch.Generator | int | None = None,
) -> KMeansResult:
    """Cluster rows by k-means; the best of several k-means++ starts.

    The starts run together on a subsample, are scored on all rows, and the best few
    are finished on all rows: restarts matter more than rows, and a start costs little this way.
    A cluster that loses all its rows takes the row farthest from its centroid. Clusters come
    largest first, so that two runs that differ by rounding number them alike.

    Args:
        rows: Float tensor (M, D).
        n_clusters: Number of clusters K.
        n_init: Number of starts.
        max_iter: Most Lloyd steps of a run.
        tol: Stop when the centroids' squared movement falls below ``tol`` times the mean
            variance of the columns, as scikit-learn does.
        generator: Seed or CPU generator; ``None`` is seed 0.

    Raises:
        ValueError: Fewer rows than clusters.

    Reference:
        Lloyd (1982); Arthur & Vassilvitskii, k-means++ (2007).
    """
    if n_clusters < 1 or len(rows) < n_clusters:
        raise ValueError(f"n_samples={len(rows)} should be >= n_clusters={n_clusters} >= 1")
    if not isinstance(generator, torch.Generator):
        generator = torch.Generator().manual_seed(generator or 0)
    mean = rows.mean(0)
    rows = rows - mean  # centred, so that the expanded distance keeps its digits
    limit = tol * float(rows.square().mean())
    chosen = torch.randperm(len(rows), generator=generator)[: max(_SEED_ROWS, n_clusters)]
    sample = rows[chosen.sort().values.to(rows.device)].expand(n_init, -1, -1)
    uniforms = torch.rand(n_clusters, n_init, _trials(n_clusters), generator=generator).to(rows)
    starts = plus_plus(sample, uniforms)
    starts, _ = lloyd(sample, starts, max_iter, limit)
    inertias = torch.stack([_assign(rows, start)[1].sum() for start in starts])
    finalists = starts[inertias.argsort(stable=True)[:_FINALISTS].sort().values]
    rows_each = rows.expand(len(finalists), -1, -1)
    finalists, n_iter = lloyd(rows_each, finalists, max_iter, limit)
    solved = [_assign(rows, centroids) for centroids in finalists]
    inertias = torch.stack([distances.sum() for _, distances in solved])
    # equal solutions differ by rounding; the first one must win on every run
    best = int((inertias <= inertias.min() * (1 + _TIE)).nonzero()[0])
    labels, distances = solved[best]
    order = _largest_first(labels, n_clusters)
    centroids = (finalists[best] + mean)[order]
    return KMeansResult(centroids, order.argsort()[labels], float(distances.sum()), n_iter)


def _largest_first(labels: Tensor, n_clusters: int) -> Tensor:
    """Return the clusters by falling size; of equal ones, first that of the earliest row."""
    sizes = torch.bincount(labels, minlength=n_clusters)
    positions = torch.arange(len(labels), device=labels.device)
    earliest = torch.full_like(sizes, len(labels))
    earliest = earliest.scatter_reduce(0, labels, positions, "amin")
    by_row = earliest.argsort(stable=True)
    return by_row[sizes[by_row].argsort(descending=True, stable=True)]


def plus_plus(rows: Tensor, uniforms: Tensor) -> Tensor:
    """Choose starting centroids (B, K, D) by greedy k-means++ in each problem (B, M, D).

    Each step draws several rows with probability proportional to their squared distance
    and keeps the one that lowers the inertia most, as scikit-learn does.

    Args:
        rows: Float tensor (B, M, D).
        uniforms: Float tensor (K, B, T) in [0, 1): T trials for each centroid.
    """
    problems = torch.arange(len(rows), device=rows.device)
    squares = rows.square().sum(2)
    first = (uniforms[0, :, 0] * rows.shape[1]).long()
    chosen = [rows[problems, first]]
    nearest = (rows - chosen[0].unsqueeze(1)).square().sum(2)
    for uniform in uniforms[1:]:
        mass = nearest.cumsum(1)
        drawn = torch.searchsorted(mass, uniform * mass[:, -1:], right=True)
        drawn = drawn.clamp_max(rows.shape[1] - 1)  # (B, T)
        trials = rows[problems.unsqueeze(1), drawn]
        products = torch.matmul(trials, rows.transpose(1, 2))
        distances = trials.square().sum(2, keepdim=True) + squares.unsqueeze(1) - 2 * products
        distances = torch.minimum(nearest.unsqueeze(1), distances.clamp_min(0))
        best = distances.sum(2).argmin(1)
        chosen.append(trials[problems, best])
        nearest = distances[problems, best]
    return torch.stack(chosen, 1)


def _trials(n_clusters: int) -> int:
    return 2 + int(math.log(n_clusters))


def lloyd(rows: Tensor, centroids: Tensor, max_iter: int, limit: float) -> tuple[Tensor, int]:
    """Run Lloyd steps in each problem until none moves more than ``limit``.

    Args:
        rows: Float tensor (B, M, D).
        centroids: Float tensor (B, K, D).
        max_iter: Most steps.
        limit: Squared movement of all centroids below which a problem is at rest.

    Returns:
        Centroids (B, K, D) and the number of steps.
    """
    for step in range(1, max_iter + 1):
        labels, distances = _assign(rows, centroids)
        updated = _means(rows, labels, distances, centroids)
        moved = (updated - centroids).square().sum((1, 2)).max()
        centroids = updated
        if moved <= limit:
            return centroids, step
    return centroids, max_iter


def _assign(rows: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels and squared distances, (..., M) each."""
    products = torch.matmul(rows, centroids.transpose(-1, -2))
    scores = products - 0.5 * centroids.square().sum(-1).unsqueeze(-2)
    best, labels = scores.max(-1)
    return labels, (rows.square().sum(-1) - 2 * best).clamp_min(0)


def _means(rows: Tensor, labels: Tensor, distances: Tensor, centroids: Tensor) -> Tensor:
    n_clusters = centroids.shape[1]
    members = _members(labels, n_clusters, rows)
    counts = members.sum(2, keepdim=True)
    means = members @ rows / counts.clamp_min(1)
    return _revive(means, counts.squeeze(2) == 0, rows, distances)


def _members(labels: Tensor, n_clusters: int, like: Tensor) -> Tensor:
    """Return the indicator of each cluster (B, K, M) from labels (B, M)."""
    clusters = torch.arange(n_clusters, device=labels.device)
    return (labels.unsqueeze(1) == clusters[:, None]).to(like)


def _revive(means: Tensor, empty: Tensor, rows: Tensor, distances: Tensor) -> Tensor:
    """Give each empty cluster a row of its own, the farthest from its centroid first."""
    if not empty.any():
        return means
    farthest = distances.topk(min(means.shape[1], rows.shape[1]), dim=1).indices
    for problem, cluster in empty.nonzero().tolist():
        rank = int(empty[problem, :cluster].sum())
        means[problem, cluster] = rows[problem, farthest[problem, rank]]
    return means


def cluster_image_rows(
    stack: StackedBlocks, n_clusters: int, *, max_iter: int = 8, seed: int = 0
) -> Tensor:
    """Cluster each image's own pixels; no fit, no data (NAVE).

    The start is found on a subgrid and refined by exact Lloyd steps over all pixels at the
    blocks' own resolution. Every image draws the same random numbers, so it gets the same
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
    pixels = _subgrid(height, width, n_clusters).to(stack.blocks[0].device)
    images = torch.arange(len(stack.blocks[0]), device=pixels.device)
    rows = stack.rows(images.repeat_interleave(len(pixels)), pixels.repeat(len(images)))
    rows = rows.unflatten(0, (len(images), len(pixels)))
    centroids = _best_start(rows, n_clusters, 2 * max_iter, seed)
    for _ in range(max_iter):
        labels, _ = stack.nearest(centroids)
        members = _members(labels.flatten(1), n_clusters, rows).unflatten(2, stack.grid)
        counts = members.sum((2, 3)).unsqueeze(2)
        means = stack.sums(members) / counts.clamp_min(1)
        centroids = torch.where(counts > 0, means, centroids)
    return centroids


def _best_start(rows: Tensor, n_clusters: int, max_iter: int, seed: int) -> Tensor:
    """Return the best of several starts in each problem (N, M, D) -> (N, K, D)."""
    problems, count, _ = rows.shape
    shape = (n_clusters, _IMAGE_STARTS, _trials(n_clusters))
    uniforms = torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(rows)
    every = _coordinates(rows).repeat_interleave(_IMAGE_STARTS, 0)
    centroids = plus_plus(every, uniforms.repeat(1, problems, 1))
    # a fixed number of steps: stopping together would tie an image to its batch
    centroids, _ = lloyd(every, centroids, max_iter, -1.0)
    labels, distances = _assign(every, centroids)
    best = distances.sum(1).view(problems, _IMAGE_STARTS).argmin(1)
    labels = labels.view(problems, _IMAGE_STARTS, count)[torch.arange(problems), best]
    members = _members(labels, n_clusters, rows)
    return members @ rows / members.sum(2, keepdim=True).clamp_min(1)


def _coordinates(rows: Tensor) -> Tensor:
    """Return rows (N, M, M) with the distances of the rows (N, M, D), D > M.

    The Cholesky factor of the Gram matrix has the rows' inner products. Its jitter, a part in
    10^4, keeps it positive definite and is far below what tells two starts apart.
    """
    if rows.shape[2] <= rows.shape[1]:
        return rows
    gram = rows @ rows.transpose(1, 2)
    diagonal = gram.diagonal(dim1=1, dim2=2)
    diagonal += 1e-4 * diagonal.mean(1, keepdim=True) + torch.finfo(rows.dtype).tiny
    factor: Tensor = torch.linalg.cholesky(gram)
    return factor


def _subgrid(height: int, width: int, n_clusters: int) -> Tensor:
    """Return flat indices of an even subgrid, the whole grid where it has few pixels."""
    if height * width <= max(_SEED_GRID**2, 4 * n_clusters):
        return torch.arange(height * width)
    side = max(_SEED_GRID, round((4 * n_clusters) ** 0.5))
    rows = torch.linspace(0, height - 1, min(side, height)).round().long()
    columns = torch.linspace(0, width - 1, min(side, width)).round().long()
    return (rows[:, None] * width + columns).flatten()
