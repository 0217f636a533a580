"""k-means: restarts on a part of the rows in Gram space, the best finished on all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from captum_kmex.gram import TINY, first_largest, gram_kmeans, start_uniforms

__all__ = ["KMeansResult", "cluster_means", "kmeans", "kmeans_by_class", "memberships"]

_START_ROWS = 256  # rows on which the starts compete, at least
_START_ROWS_EACH = 64  # and for each cluster
_TIE = 1e-4  # relative difference of inertia below which two solutions are the same
_PART_STARTS = 2  # starts on such a part for each start asked for
_START_STEPS = 10  # Lloyd steps on such a part
_SCORED = 4  # best starts there, which compete on all rows
_RACE_STEPS = 1  # for so many Lloyd steps
_OFFSET = 10.0  # squared mean over variance above which rows are centred
_PROBLEM_FLOATS = 2**24  # of the problems solved together


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
) -> Iterator[KMeansResult]:
    """Cluster the rows of each class by k-means, yielding class by class.

    The starts of many classes run together in Gram space: on all rows of a small class, which
    solves it, and on a part of a large one's. There the best few are scored on all rows, and
    the best is finished on all of them: restarts matter more than rows, and cost little so. A
    cluster that loses all its rows takes the row farthest from its centroid. Clusters come
    largest first, so that two runs that differ by rounding number them alike. A class's result
    does not depend on the other classes.

    Args:
        samples: Float tensors (M_c, D), the rows of each class.
        n_clusters: Number of clusters of each class.
        weights: Positive weights (M_c,) of each class's rows; all alike if ``None``.
        n_init: Number of starts.
        max_iter: Most Lloyd steps of a run.
        tol: As in ``kmeans``.
        generator: Seed or CPU generator; ``None`` is seed 0.

    Raises:
        ValueError: Fewer rows than clusters.

    Reference:
        Lloyd (1982); Arthur & Vassilvitskii, k-means++ (2007).
    """
    if not isinstance(generator, torch.Generator):
        generator = torch.Generator().manual_seed(generator or 0)
    seed = int(torch.randint(2**62, (1,), generator=generator))
    for start, stop in _together(samples, n_clusters, n_init):
        k = n_clusters[start]
        problems = [
            _Problem.of(samples[i], None if weights is None else weights[i], k, seed)
            for i in range(start, stop)
        ]
        labels, inertias = _solve_starts(problems, k, n_init, max_iter, seed)
        for problem, found, inertia in zip(problems, labels, inertias, strict=True):
            yield _solution(problem, found[:, : len(problem.part)], inertia, k, max_iter, tol)


@dataclass(frozen=True)
class _Problem:
    """One class: rows near enough to the origin for expanded distances to keep their digits.

    Attributes:
        rows: Float tensor (M, D), less their mean where that is far out.
        squares: Their squared norms (M,).
        variance: Mean squared distance to their mean.
        weights: Float tensor (M,), or ``None`` where all are alike.
        mean: What was taken off the rows (D,).
        part: The rows (m, D) on which the starts compete.
        mass: Their weights (m,).
    """

    rows: Tensor
    squares: Tensor
    variance: float
    weights: Tensor | None
    mean: Tensor
    part: Tensor
    mass: Tensor

    @classmethod
    def of(cls, rows: Tensor, weights: Tensor | None, n_clusters: int, seed: int) -> _Problem:
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
        part = _start_rows(rows, far, weights, _start_size(n_clusters), seed)
        return cls(rows, squares, float(far.mean()), weights, mean, *part)

    @property
    def is_whole(self) -> bool:
        """Whether the starts have all rows."""
        return self.part is self.rows


def _start_size(n_clusters: int) -> int:
    return max(_START_ROWS, _START_ROWS_EACH * n_clusters)


def _together(
    samples: Sequence[Tensor], n_clusters: Sequence[int], n_init: int
) -> Iterator[tuple[int, int]]:
    """Return ranges of consecutive classes that are alike and fit in memory together."""
    start = 0
    while start < len(samples):
        k, stop, size = n_clusters[start], start, 0
        is_small = len(samples[start]) <= _start_size(k)
        while stop < len(samples) and n_clusters[stop] == k:
            if is_small != (len(samples[stop]) <= _start_size(k)):
                break
            size = max(size, min(len(samples[stop]), _start_size(k)))
            each = size * (size + samples[stop].shape[1] + 3 * n_init * k)
            if stop > start and (stop + 1 - start) * each > _PROBLEM_FLOATS:
                break
            stop += 1
        yield start, stop
        start = stop


def _start_rows(
    rows: Tensor, far: Tensor, weights: Tensor | None, count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return a weighted part of the rows (m, D), in which rare far rows are not missed.

    Args:
        rows: Float tensor (M, D).
        far: Squared distances (M,) to their mean.
        weights: Weight of each row (M,), or ``None``.
        count: Rows m to draw; all are kept where there are no more.
        seed: Seed of the draw.

    Reference:
        Bachem et al., "Scalable k-Means Clustering via Lightweight Coresets" (2018).
    """
    weights = torch.ones_like(rows[:, 0]) if weights is None else weights
    if len(rows) <= count:
        return rows, weights
    mass = weights.cpu().double()
    spread = mass * far.cpu().clamp_min(0)
    share = 0.5 * mass / mass.sum() + 0.5 * spread / spread.sum().clamp_min(TINY)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(share, count, replacement=True, generator=generator)
    return rows[drawn.to(rows.device)], (mass[drawn] / (count * share[drawn])).to(rows)


def _solve_starts(
    problems: Sequence[_Problem], n_clusters: int, n_init: int, max_iter: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return labels (B, R, m) and inertias (B, R) of the starts of problems in Gram space."""
    padded = pad_sequence([problem.part for problem in problems], batch_first=True)
    mass = pad_sequence([problem.mass for problem in problems], batch_first=True)
    if not problems[0].is_whole:  # cheap there, and each worth less
        n_init, max_iter = _PART_STARTS * n_init, min(max_iter, _START_STEPS)
    uniforms = start_uniforms(n_clusters, n_init, torch.Generator().manual_seed(seed))
    return gram_kmeans(padded @ padded.transpose(1, 2), mass, uniforms, max_iter)


def _solution(
    problem: _Problem, labels: Tensor, inertias: Tensor, n_clusters: int, max_iter: int, tol: float
) -> KMeansResult:
    """Finish the best of one class's starts, given their labels (R, m) and inertias (R,)."""
    rows, weights = problem.rows, problem.weights
    if problem.is_whole:
        winner = labels[_first_best(inertias)]
        means, empty = _means(rows, winner, n_clusters, weights)
        if not empty.any():
            return _result(problem, means, winner, (rows - means[winner]).square().sum(1), 0)
        starts = means[None]
    else:
        labels = labels[inertias.argsort(stable=True)[:_SCORED].sort().values]
        members = memberships(labels, n_clusters, problem.part) * problem.mass
        starts = cluster_means(members.flatten(0, 1), problem.part).view(*members.shape[:2], -1)
        starts, _ = lloyd(rows, starts, _RACE_STEPS, 0, weights, problem.squares)
        inertias = _total(_assign(rows, starts, problem.squares)[1], weights)
        starts = starts[_first_best(inertias)][None]
    limit = tol * problem.variance / rows.shape[1]
    centroids, n_iter = lloyd(rows, starts, max_iter, limit, weights, problem.squares)
    assigned, distances = _assign(rows, centroids, problem.squares)
    return _result(problem, centroids[0], assigned[0], distances[0], n_iter)


def _total(distances: Tensor, weights: Tensor | None) -> Tensor:
    """Return the inertia of squared distances (..., M)."""
    return distances.sum(-1) if weights is None else distances @ weights


def _first_best(inertias: Tensor) -> int:
    """Return the first of the best: equal solutions differ by rounding, run by run."""
    return int((inertias <= inertias.min().clamp_min(0) * (1 + _TIE)).nonzero()[0])


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


def lloyd(
    rows: Tensor,
    centroids: Tensor,
    max_iter: int,
    limit: float,
    weights: Tensor | None = None,
    squares: Tensor | None = None,
) -> tuple[Tensor, int]:
    """Run Lloyd steps from several starts until none moves more than ``limit``.

    Args:
        rows: Float tensor (M, D).
        centroids: Float tensor (R, K, D).
        max_iter: Most steps.
        limit: Squared movement of all centroids below which a start is at rest.
        weights: Weight of each row (M,); all alike if ``None``.
        squares: Squared norm of each row (M,), if known.

    Returns:
        Centroids (R, K, D) and the number of steps.
    """
    squares = rows.square().sum(1) if squares is None else squares
    for step in range(1, max_iter + 1):
        labels, distances = _assign(rows, centroids, squares)
        found = [_means(rows, own, centroids.shape[1], weights) for own in labels]
        updated = torch.stack(
            [_revive(*means, rows, far) for means, far in zip(found, distances, strict=True)]
        )
        moved = (updated - centroids).square().sum((1, 2)).max()
        centroids = updated
        if moved <= limit:
            return centroids, step
    return centroids, max_iter


def _assign(rows: Tensor, centroids: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels and squared distances (R, M) of rows (M, D) to centroids (R, K, D)."""
    offsets = -0.5 * centroids.square().sum(2).unsqueeze(2)
    scores = (centroids.flatten(0, 1) @ rows.T).view(*centroids.shape[:2], -1).add_(offsets)
    labels = first_largest(scores)
    best = scores.gather(1, labels.unsqueeze(1)).squeeze(1)
    return labels, (squares - 2 * best).clamp_min(0)


def memberships(labels: Tensor, n_clusters: int, like: Tensor) -> Tensor:
    """Return the indicator of each cluster (..., K, M) from labels (..., M)."""
    clusters = torch.arange(n_clusters, device=labels.device)
    return (labels.unsqueeze(-2) == clusters[:, None]).to(like)


def cluster_means(members: Tensor, rows: Tensor) -> Tensor:
    """Return the mean of each cluster's rows, 0 where it has none."""
    return members @ rows / members.sum(-1, keepdim=True).clamp_min(TINY)


def _means(
    rows: Tensor, labels: Tensor, n_clusters: int, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the mean (K, D) of each cluster's rows, and which clusters (K,) have none."""
    if rows.device.type != "cpu":  # there the order of additions varies from run to run
        members = memberships(labels, n_clusters, rows)
        members = members if weights is None else members * weights
        return cluster_means(members, rows), members.sum(1) == 0
    weighted = rows if weights is None else rows * weights.unsqueeze(1)
    sums = rows.new_zeros(n_clusters, rows.shape[1]).index_add_(0, labels, weighted)
    sizes = torch.bincount(labels, weights, minlength=n_clusters).to(rows)
    return sums / sizes.clamp_min(TINY).unsqueeze(1), sizes == 0


def _revive(means: Tensor, empty: Tensor, rows: Tensor, distances: Tensor) -> Tensor:
    """Give each empty cluster a row of its own, the farthest from its centroid first."""
    if empty.any():
        means[empty] = rows[distances.topk(int(empty.sum())).indices]
    return means
