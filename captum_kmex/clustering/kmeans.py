"""k-means: restarts in Gram space; of many rows, on parts that agree on where to begin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from captum_kmex.clustering.gram import TINY, gram_kmeans, start_uniforms
from captum_kmex.clustering.lloyd import assign, cluster_means, lloyd, means_of, memberships
from captum_kmex.clustering.row_starts import best_start

__all__ = ["KMeansResult", "kmeans", "kmeans_by_class"]

_START_ROWS = 256  # rows on which the starts compete, at least
_START_ROWS_EACH = 64  # and for each cluster
_TIE = 1e-4  # relative difference of inertia below which two solutions are the same
_PARTS = 2  # parts of a large class for each start asked for
_PART_STARTS = 4  # starts on each
_PART_STEPS = 10  # Lloyd steps there
_OFFSET = 10.0  # squared mean over variance above which rows are centred
_PROBLEM_FLOATS = 2**24  # of the problems solved together, at most
_PROBLEM_COPIES = 4  # of these floats, that steps in Gram space make
_GRAM_ROWS = 1280  # rows of which inner products are always few enough: 20 clusters' parts
_ALL_STARTS = 3000  # clusters of all starts together, where there are many in each


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
    turn: that consensus is finished on all rows. k-means has many solutions nearly as good as
    each other; the best of a few starts is another one for each seed, the consensus is not. A
    cluster that loses all its rows takes the row farthest from its centroid. Clusters come
    largest first, so that two runs that differ by rounding number them alike. A class's result
    does not depend on the other classes.

    Inner products of a part grow with the square of the number of clusters. Where they would
    not fit (from about 60 clusters on), the best of a few starts on one part, fewer the more
    clusters there are, is finished on all rows: with so many clusters one start is as good as
    another.

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
            _Problem.of(samples[i], None if weights is None else weights[i], k)
            for i in range(start, stop)
        ]
        way = _way(len(problems[0].rows), k, n_init, limit)
        if way is not None:
            for problem in problems:
                yield _finished(
                    problem, way(problem, k, n_init, max_iter, seed, limit), max_iter, tol
                )
            continue
        labels, inertias = _solve_starts(problems, k, n_init, max_iter, seed)
        for problem, found, inertia in zip(problems, labels, inertias, strict=True):
            winner = found[_first_best(inertia), : len(problem.rows)]
            yield _solution(problem, winner, k, max_iter, tol)


@dataclass(frozen=True)
class _Problem:
    """One class: rows near enough to the origin for expanded distances to keep their digits.

    Attributes:
        rows: Float tensor (M, D), less their mean where that is far out.
        squares: Their squared norms (M,).
        far: Their squared distances to their mean (M,).
        weights: Float tensor (M,), or ``None`` where all are alike.
        mean: What was taken off the rows (D,).
    """

    rows: Tensor
    squares: Tensor
    far: Tensor
    weights: Tensor | None
    mean: Tensor

    @classmethod
    def of(cls, rows: Tensor, weights: Tensor | None, n_clusters: int) -> _Problem:
        if n_clusters < 1 or len(rows) < n_clusters:
            raise ValueError(f"n_samples={len(rows)} should be >= n_clusters={n_clusters} >= 1")
        weights = None if weights is None else weights.to(rows)
        mean = rows.mean(0) if weights is None else weights @ rows / weights.sum()
        squares = torch.linalg.vector_norm(rows, dim=1).square()
        far = squares - 2 * (rows @ mean) + mean.square().sum()
        if mean.square().sum() > _OFFSET * far.mean():
            rows = rows - mean
            squares = far = torch.linalg.vector_norm(rows, dim=1).square()
        else:
            mean = torch.zeros_like(mean)
        return cls(rows, squares, far, weights, mean)

    @property
    def masses(self) -> Tensor:
        """Weight of each row (M,)."""
        return torch.ones_like(self.squares) if self.weights is None else self.weights

    def parts(self, count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return ``count`` parts of the rows, in which rare far rows are not missed.

        Args:
            count: Number of parts P.
            size: Rows m of each, drawn with replacement.
            seed: Seed of the draw.

        Returns:
            Index tensor (P, m) into the rows, and their weights (P, m).

        Reference:
            Bachem et al., "Scalable k-Means Clustering via Lightweight Coresets" (2018).
        """
        mass = self.masses.cpu().double()
        spread = mass * self.far.cpu().clamp_min(0)
        share = 0.5 * mass / mass.sum() + 0.5 * spread / spread.sum().clamp_min(TINY)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(share, count * size, replacement=True, generator=generator)
        weights = mass[drawn] / (size * share[drawn])
        shape = (count, size)
        return drawn.view(shape).to(self.rows.device), weights.view(shape).to(self.rows)


_Way = Callable[[_Problem, int, int, int, int, int], Tensor]


def _start_size(n_clusters: int) -> int:
    return max(_START_ROWS, _START_ROWS_EACH * n_clusters)


def _together(
    samples: Sequence[Tensor], n_clusters: Sequence[int], n_init: int, limit: int
) -> Iterator[tuple[int, int]]:
    """Return ranges of consecutive classes that are alike and fit in memory together."""
    start = 0
    while start < len(samples):
        k, stop, size = n_clusters[start], start, 0
        way = _way(len(samples[start]), k, n_init, limit)
        while stop < len(samples) and n_clusters[stop] == k:
            if way != _way(len(samples[stop]), k, n_init, limit):
                break
            size = max(size, min(len(samples[stop]), _start_size(k)))
            each = size * (size + samples[stop].shape[1] + 3 * n_init * k)
            if stop > start and (stop + 1 - start) * each > limit:
                break
            stop += 1
        yield start, stop
        start = stop


def _solve_starts(
    problems: Sequence[_Problem], n_clusters: int, n_init: int, max_iter: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return labels (B, R, M) and inertias (B, R) of the starts of small problems."""
    padded = pad_sequence([problem.rows for problem in problems], batch_first=True)
    mass = pad_sequence([problem.masses for problem in problems], batch_first=True)
    return _gram_starts(padded, mass, n_clusters, n_init, max_iter, seed)


def _gram_starts(
    rows: Tensor, mass: Tensor, n_clusters: int, n_init: int, max_iter: int, seed: int
) -> tuple[Tensor, Tensor]:
    uniforms = start_uniforms(n_clusters, n_init, torch.Generator().manual_seed(seed))
    return gram_kmeans(rows @ rows.transpose(1, 2), mass, uniforms, max_iter)


def _way(rows: int, n_clusters: int, n_init: int, limit: int) -> _Way | None:
    """Return how to find where a large class begins; ``None`` if its starts solve it."""
    size, starts = _start_size(n_clusters), _PART_STARTS
    if rows <= size:
        size, starts = rows, n_init
    fits = size <= _GRAM_ROWS or size * (size + 3 * starts * n_clusters) <= limit
    if not fits:
        return _start_of_many
    return _consensus if rows > size else None


def _start_of_many(
    problem: _Problem, n_clusters: int, n_init: int, max_iter: int, seed: int, limit: int
) -> Tensor:
    """Return the centroids (K, D) of the best of some starts on a part of the rows."""
    rows, squares, masses = problem.rows, problem.squares, problem.masses
    size = max(n_clusters, min(_start_size(n_clusters), limit // rows.shape[1]))
    if len(rows) > size:
        drawn, mass = problem.parts(1, size, seed)
        rows, squares, masses = rows[drawn[0]], squares[drawn[0]], mass[0]
    starts = max(1, min(n_init, _ALL_STARTS // n_clusters))
    uniforms = start_uniforms(n_clusters, starts, torch.Generator().manual_seed(seed))
    return best_start(rows, squares, masses, uniforms, min(max_iter, _PART_STEPS))


def _consensus(
    problem: _Problem, n_clusters: int, n_init: int, max_iter: int, seed: int, limit: int
) -> Tensor:
    """Return the centroids (K, D) on which parts of one large class agree.

    Each part is solved on its own; the centroids of all parts, weighted by what they stand
    for, are clustered like rows.
    """
    size = _start_size(n_clusters)
    drawn, masses = problem.parts(_PARTS * n_init, size, seed)
    each = size * (size + problem.rows.shape[1] + 3 * _PART_STARTS * n_clusters)
    centroids, weights = [], []
    for some in torch.arange(len(drawn)).split(max(1, limit // each)):
        index, mass = drawn[some], masses[some]
        part = problem.rows[index]
        labels, inertias = _gram_starts(part, mass, n_clusters, _PART_STARTS, _PART_STEPS, seed)
        best = labels[torch.arange(len(labels)), _first_best(inertias)]
        members = memberships(best, n_clusters, part) * mass.unsqueeze(1)
        centroids.append(cluster_means(members, part).flatten(0, 1))
        weights.append(members.sum(2).flatten())
    pooled, mass = torch.cat(centroids), torch.cat(weights)
    labels, inertias = _gram_starts(pooled[None], mass[None], n_clusters, n_init, max_iter, seed)
    best = labels[0, _first_best(inertias[0])]
    return cluster_means(memberships(best, n_clusters, pooled) * mass, pooled)


def _solution(
    problem: _Problem, labels: Tensor, n_clusters: int, max_iter: int, tol: float
) -> KMeansResult:
    """Return the means of labels (M,) that are at rest, or finish them where one is empty."""
    rows = problem.rows
    means, empty = means_of(rows, labels, n_clusters, problem.weights)
    if empty.any():
        return _finished(problem, means, max_iter, tol)
    return _result(problem, means, labels, (rows - means[labels]).square().sum(1), 0)


def _finished(problem: _Problem, start: Tensor, max_iter: int, tol: float) -> KMeansResult:
    """Run Lloyd on all rows from one start (K, D)."""
    rows, weights, squares = problem.rows, problem.weights, problem.squares
    limit = tol * float(problem.far.mean()) / rows.shape[1]
    centroids, n_iter = lloyd(rows, start[None], max_iter, limit, weights, squares)
    assigned, distances = assign(rows, centroids, squares)
    return _result(problem, centroids[0], assigned[0], distances[0], n_iter)


def _total(distances: Tensor, weights: Tensor | None) -> Tensor:
    """Return the inertia of squared distances (..., M)."""
    return distances.sum(-1) if weights is None else distances @ weights


def _first_best(inertias: Tensor) -> Tensor:
    """Return the first of the best of (..., R): equal solutions differ by rounding."""
    is_best = inertias <= inertias.amin(-1, keepdim=True).clamp_min(0) * (1 + _TIE)
    return (is_best.cumsum(-1) == 0).sum(-1)


def _result(
    problem: _Problem, centroids: Tensor, labels: Tensor, distances: Tensor, n_iter: int
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
