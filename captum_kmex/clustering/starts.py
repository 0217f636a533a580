"""Where a k-means problem begins: starts on all of its rows, or on parts of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from captum_kmex.clustering.gram import gram_kmeans, start_uniforms
from captum_kmex.clustering.lloyd import assign, cluster_means, lloyd, means_of, memberships
from captum_kmex.clustering.narrow import leading_directions, narrow_starts
from captum_kmex.clustering.problem import Problem
from captum_kmex.clustering.row_starts import best_start

__all__ = ["Way", "first_best", "gram_starts", "start_of_many", "start_size", "way_to_begin"]

_START_ROWS = 256  # rows on which the starts compete, at least
_START_ROWS_EACH = 64  # and for each cluster
_TIE = 1e-4  # relative difference of inertia below which two solutions are the same
_PARTS = 2  # parts of a large class for each start asked for
_PART_STARTS = 4  # starts on each
_PART_STEPS = 10  # Lloyd steps there
_SEEN = 1000  # rows by which it is decided along which directions all differ, at most
_GRAM_ROWS = 1280  # rows of which inner products are always few enough: 20 clusters' parts
_ALL_STARTS = 600  # clusters of all starts together, where there are many in each

Way = Callable[[Problem, int, int, int, int, int], Tensor]


def start_size(n_clusters: int) -> int:
    """Return on how many rows starts compete, at most."""
    return max(_START_ROWS, _START_ROWS_EACH * n_clusters)


def way_to_begin(rows: int, n_clusters: int, n_init: int, limit: int) -> Way | None:
    """Return how to find where a large class begins; ``None`` if its starts solve it."""
    size, starts = start_size(n_clusters), _PART_STARTS
    if rows <= size:
        size, starts = rows, n_init
    fits = size <= _GRAM_ROWS or size * (size + 3 * starts * n_clusters) <= limit
    if not fits:
        return start_of_many
    return _consensus if rows > size else None


def gram_starts(
    rows: Tensor, mass: Tensor, n_clusters: int, n_init: int, max_iter: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return labels (B, R, M) and inertias (B, R) of R starts of each of B problems.

    Args:
        rows: Float tensor (B, M, D).
        mass: Weight of each row (B, M).
        n_clusters: Number of clusters.
        n_init: Number of starts R.
        max_iter: Most Lloyd steps.
        seed: Seed of the starts.
    """
    uniforms = start_uniforms(n_clusters, n_init, torch.Generator().manual_seed(seed))
    return gram_kmeans(rows @ rows.transpose(1, 2), mass, uniforms, max_iter)


def start_of_many(
    problem: Problem, n_clusters: int, n_init: int, max_iter: int, seed: int, limit: int
) -> Tensor:
    """Return the centroids (K, D) of the best of some starts on a part of the rows."""
    rows, squares, masses = problem.rows, problem.squares, problem.masses
    size = max(n_clusters, min(start_size(n_clusters), limit // rows.shape[1]))
    if len(rows) > size:
        drawn, mass = problem.parts(1, size, seed)
        rows, squares, masses = rows[drawn[0]], squares[drawn[0]], mass[0]
    starts = max(1, min(n_init, _ALL_STARTS // n_clusters))
    uniforms = start_uniforms(n_clusters, starts, torch.Generator().manual_seed(seed))
    return best_start(rows, squares, masses, uniforms, min(max_iter, _PART_STEPS))


def _consensus(
    problem: Problem, n_clusters: int, n_init: int, max_iter: int, seed: int, limit: int
) -> Tensor:
    """Return the centroids (K, D) on which parts of one large class agree.

    Each part is solved on its own; the centroids of all parts, weighted by what they stand
    for, are clustered like rows. Where rows are long this goes on among their projections on few
    directions, in which all rows are then brought to rest: their means begin the class.
    """
    size = start_size(n_clusters)
    drawn, masses = problem.parts(_PARTS * n_init, size, seed)
    some = slice(None, None, -(-len(problem.rows) // _SEEN))
    directions = leading_directions(problem.rows[some], problem.masses[some], n_clusters)
    if directions is None:
        return _agreed(problem.rows, drawn, masses, n_clusters, n_init, max_iter, seed, limit)
    low = problem.rows @ directions
    start = _agreed(low, drawn, masses, n_clusters, n_init, max_iter, seed, limit)
    centroids, _ = lloyd(low, start[None], max_iter, 0.0, problem.weights)
    labels, _ = assign(low, centroids, low.square().sum(1))
    means, empty = means_of(problem.rows, labels[0], n_clusters, problem.weights)
    return torch.where(empty.unsqueeze(1), centroids[0] @ directions.T, means)


def _agreed(
    rows: Tensor,
    drawn: Tensor,
    masses: Tensor,
    n_clusters: int,
    n_init: int,
    max_iter: int,
    seed: int,
    limit: int,
) -> Tensor:
    """Return the centroids (K, d) on which parts (P, m) of rows (M, d) agree."""
    size, width = drawn.shape[1], rows.shape[1]
    each = size * (width + 3 * _PART_STARTS * n_clusters)
    centroids, weights = [], []
    for some in torch.arange(len(drawn)).split(max(1, limit // each)):
        part, mass = rows[drawn[some]], masses[some]
        labels, inertias = narrow_starts(part, mass, n_clusters, _PART_STARTS, _PART_STEPS, seed)
        best = labels[torch.arange(len(labels)), first_best(inertias)]
        members = memberships(best, n_clusters, part) * mass.unsqueeze(1)
        centroids.append(cluster_means(members, part).flatten(0, 1))
        weights.append(members.sum(2).flatten())
    pooled, mass = torch.cat(centroids), torch.cat(weights)
    labels, inertias = narrow_starts(pooled[None], mass[None], n_clusters, n_init, max_iter, seed)
    best = labels[0, first_best(inertias[0])]
    return cluster_means(memberships(best, n_clusters, pooled) * mass, pooled)


def first_best(inertias: Tensor) -> Tensor:
    """Return the first of the best of (..., R): equal solutions differ by rounding."""
    is_best = inertias <= inertias.amin(-1, keepdim=True).clamp_min(0) * (1 + _TIE)
    return (is_best.cumsum(-1) == 0).sum(-1)
