"""k-means: restarts in Gram space; of many rows, on parts that agree on where to begin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from captum_kmex.clustering.lloyd import assign, lloyd, means_of
from captum_kmex.clustering.problem import Problem
from captum_kmex.clustering.starts import (
    first_best,
    gram_starts,
    start_of_many,
    start_size,
    way_to_begin,
)

__all__ = ["KMeansResult", "kmeans", "kmeans_by_class"]

_PROBLEM_FLOATS = 2**24  # of the problems solved together, at most
_PROBLEM_COPIES = 4  # of these floats, that steps in Gram space make
_LEAST_GAIN = 1e-4  # of the inertia, by a step on all rows, where clusters are many


@dataclass(frozen=True)
class KMeansResult:
    """A solved k-means problem.

    Attributes:
        centroids: Float tensor (K, D), the largest cluster first.
        labels: Index tensor (M,).
        inertia: Weighted sum of squared distances to the nearest centroid.
        n_iter: Lloyd steps on all rows after the starts; 0 where the starts had them all.
    """

    centroids: Tensor
    labels: Tensor
    inertia: float
    n_iter: int


def kmeans(
    rows: Tensor,
    n_clusters: int,
    *,
    weights: Tensor | None = None,
    n_init: int = 10,
    max_iter: int = 100,
    tol: float = 1e-4,
    generator: torch.Generator | int | None = None,
    memory_budget: int = 2**28,
) -> KMeansResult:
    """Cluster rows by k-means; ``kmeans_by_class`` of one class.

    Args:
        rows: Float tensor (M, D).
        n_clusters: Number of clusters K.
        weights: Positive weight of each row (M,); all alike if ``None``.
        n_init: Number of starts.
        max_iter: Most Lloyd steps of a run.
        tol: Stop when the centroids' squared movement falls below ``tol`` times the mean
            variance of the columns, as scikit-learn does.
        generator: Seed or CPU generator; ``None`` is seed 0.
        memory_budget: As in ``kmeans_by_class``.

    Raises:
        ValueError: Fewer rows than clusters.
    """
    solved = kmeans_by_class(
        [rows],
        [n_clusters],
        weights=None if weights is None else [weights],
        n_init=n_init,
        max_iter=max_iter,
        tol=tol,
        generator=generator,
        memory_budget=memory_budget,
    )
    return next(solved)


def kmeans_by_class(
    samples: Sequence[Tensor],
    n_clusters: Sequence[int],
    *,
    weights: Sequence[Tensor] | None = None,
    n_init: int = 10,
    max_iter: int = 100,
    tol: float = 1e-4,
    generator: torch.Generator | int | None = None,
    memory_budget: int = 2**28,
) -> Iterator[KMeansResult]:
    """Cluster the rows of each class by k-means, yielding class by class.

    The starts of many small classes run together in Gram space, on all rows, which solves them.
    Of a large class, many parts are solved so, and the centroids of all parts are clustered in
    turn: that consensus is finished on all rows. Parts of long rows are projected on the few
    directions in which the rows differ most. k-means has many solutions nearly as good as
    each other; the best of a few starts is another one for each seed, the consensus is not. A
    cluster that loses all its rows takes the row farthest from its centroid. Clusters come
    largest first, so that two runs that differ by rounding number them alike. A class's result
    does not depend on the other classes.

    Inner products of a part grow with the square of the number of clusters. Where they would
    not fit (from about 60 clusters on), the best of a few starts on one part, fewer the more
    clusters there are, is finished on all rows: with so many clusters one start is as good as
    another. Its steps also end where one lowers the inertia by less than a ten-thousandth.

    Args:
        samples: Float tensors (M_c, D), the rows of each class.
        n_clusters: Number of clusters of each class.
        weights: Positive weights (M_c,) of each class's rows; all alike if ``None``.
        n_init: Number of starts; of a large class, half the number of parts.
        max_iter: Most Lloyd steps of a run.
        tol: As in ``kmeans``.
        generator: Seed or CPU generator; ``None`` is seed 0.
        memory_budget: Bytes to work with, beside the rows; a few MiB are always used, and at
            most 256 MiB.

    Raises:
        ValueError: Fewer rows than clusters.

    Reference:
        Lloyd (1982); Arthur & Vassilvitskii, k-means++ (2007); Bradley & Fayyad, "Refining
        Initial Points for K-Means Clustering" (1998), for the consensus of parts.
    """
    if not isinstance(generator, torch.Generator):
        generator = torch.Generator().manual_seed(generator or 0)
    seed = int(torch.randint(2**62, (1,), generator=generator))
    limit = min(_PROBLEM_FLOATS, memory_budget // (4 * _PROBLEM_COPIES))
    for start, stop in _together(samples, n_clusters, n_init, limit):
        k = n_clusters[start]
        problems = [
            Problem.of(samples[i], None if weights is None else weights[i], k)
            for i in range(start, stop)
        ]
        way = way_to_begin(len(problems[0].rows), k, n_init, limit)
        if way is not None:
            least_gain = _LEAST_GAIN if way is start_of_many else 0.0
            for problem in problems:
                begin = way(problem, k, n_init, max_iter, seed, limit)
                yield _finished(problem, begin, max_iter, tol, least_gain)
            continue
        labels, inertias = _solve_starts(problems, k, n_init, max_iter, seed)
        for problem, found, inertia in zip(problems, labels, inertias, strict=True):
            winner = found[first_best(inertia), : len(problem.rows)]
            yield _solution(problem, winner, k, max_iter, tol)


def _together(
    samples: Sequence[Tensor], n_clusters: Sequence[int], n_init: int, limit: int
) -> Iterator[tuple[int, int]]:
    """Return ranges of consecutive classes that are alike and fit in memory together."""
    start = 0
    while start < len(samples):
        k, stop, size = n_clusters[start], start, 0
        way = way_to_begin(len(samples[start]), k, n_init, limit)
        while stop < len(samples) and n_clusters[stop] == k:
            if way != way_to_begin(len(samples[stop]), k, n_init, limit):
                break
            size = max(size, min(len(samples[stop]), start_size(k)))
            each = size * (size + samples[stop].shape[1] + 3 * n_init * k)
            if stop > start and (stop + 1 - start) * each > limit:
                break
            stop += 1
        yield start, stop
        start = stop


def _solve_starts(
    problems: Sequence[Problem], n_clusters: int, n_init: int, max_iter: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return labels (B, R, M) and inertias (B, R) of the starts of small problems."""
    padded = pad_sequence([problem.rows for problem in problems], batch_first=True)
    mass = pad_sequence([problem.masses for problem in problems], batch_first=True)
    return gram_starts(padded, mass, n_clusters, n_init, max_iter, seed)


def _solution(
    problem: Problem, labels: Tensor, n_clusters: int, max_iter: int, tol: float
) -> KMeansResult:
    """Return the means of labels (M,) that are at rest, or finish them where one is empty."""
    rows = problem.rows
    means, empty = means_of(rows, labels, n_clusters, problem.weights)
    if empty.any():
        return _finished(problem, means, max_iter, tol)
    return _result(problem, means, labels, (rows - means[labels]).square().sum(1), 0)


def _finished(
    problem: Problem, start: Tensor, max_iter: int, tol: float, least_gain: float = 0.0
) -> KMeansResult:
    """Run Lloyd on all rows from one start (K, D)."""
    rows, weights, squares = problem.rows, problem.weights, problem.squares
    limit = tol * float(problem.far.mean()) / rows.shape[1]
    centroids, n_iter = lloyd(rows, start[None], max_iter, limit, weights, squares, least_gain)
    assigned, distances = assign(rows, centroids, squares)
    return _result(problem, centroids[0], assigned[0], distances[0], n_iter)


def _total(distances: Tensor, weights: Tensor | None) -> Tensor:
    """Return the inertia of squared distances (..., M)."""
    return distances.sum(-1) if weights is None else distances @ weights


def _result(
    problem: Problem, centroids: Tensor, labels: Tensor, distances: Tensor, n_iter: int
) -> KMeansResult:
    order = _largest_first(labels, problem.weights, len(centroids))
    inertia = float(_total(distances, problem.weights))
    return KMeansResult((centroids + problem.mean)[order], order.argsort()[labels], inertia, n_iter)


def _largest_first(labels: Tensor, weights: Tensor | None, n_clusters: int) -> Tensor:
    """Return the clusters by falling weight; of equal ones, first that of the earliest row."""
    sizes = torch.bincount(labels, weights, minlength=n_clusters)
    positions = torch.arange(len(labels), device=labels.device)
    earliest = torch.full_like(sizes, len(labels), dtype=torch.int64)
    earliest = earliest.scatter_reduce(0, labels, positions, "amin")
    by_row = earliest.argsort(stable=True)
    return by_row[sizes[by_row].argsort(descending=True, stable=True)]
