"""k-means: restarts on a part of the rows in Gram space, the best finished on all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from captum_kmex.gram import TINY, gram_kmeans, start_uniforms

__all__ = ["KMeansResult", "cluster_means", "kmeans", "kmeans_by_class", "memberships"]

_START_ROWS = 512  # rows on which the starts compete, at least
_START_ROWS_EACH = 64  # and for each cluster
_TIE = 1e-4  # relative difference of inertia below which two solutions are the same
_FINALISTS = 3  # best starts that are finished on all rows
_PROBLEM_FLOATS = 2**24  # of the problems solved together


@dataclass(frozen=True)
class KMeansResult:
    """A solved k-means problem.

    Attributes:
        centroids: Float tensor (K, D), the largest cluster first.
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
    """Cluster rows by k-means; ``kmeans_by_class`` of one class.

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
    """
    solved = kmeans_by_class(
        [rows], [n_clusters], n_init=n_init, max_iter=max_iter, tol=tol, generator=generator
    )
    return next(solved)


def kmeans_by_class(
    samples: Sequence[Tensor],
    n_clusters: Sequence[int],
    *,
    n_init: int = 10,
    max_iter: int = 100,
    tol: float = 1e-4,
    generator: torch.Generator | int | None = None,
) -> Iterator[KMeansResult]:
    """Cluster the rows of each class by k-means, yielding class by class.

    The starts of many classes run together in Gram space, on a part of each class's rows; they
    are scored on all of them, and the best are finished on all of them: restarts matter more
    than rows, and cost little this way. A cluster that loses all its rows takes the row
    farthest from its centroid. Clusters come largest first, so that two runs that differ by
    rounding number them alike. A class's result does not depend on the other classes.

    Args:
        samples: Float tensors (M_c, D), the rows of each class.
        n_clusters: Number of clusters of each class.
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
        k, centred = n_clusters[start], []
        for rows in samples[start:stop]:
            if k < 1 or len(rows) < k:
                raise ValueError(f"n_samples={len(rows)} should be >= n_clusters={k} >= 1")
            # centred, so that the expanded distance keeps its digits
            centred.append(rows - rows.mean(0))
        starts = _starts(centred, k, n_init, max_iter, seed)
        for rows, shifted, candidates in zip(samples[start:stop], centred, starts, strict=True):
            yield _finish(rows, shifted, candidates, max_iter, tol)


def _together(
    samples: Sequence[Tensor], n_clusters: Sequence[int], n_init: int
) -> Iterator[tuple[int, int]]:
    """Return ranges of consecutive classes with as many clusters that fit in memory together."""
    start = 0
    while start < len(samples):
        k, stop, size = n_clusters[start], start, 0
        while stop < len(samples) and n_clusters[stop] == k:
            size = max(size, min(len(samples[stop]), max(_START_ROWS, _START_ROWS_EACH * k)))
            each = size * (size + samples[stop].shape[1] + 3 * n_init * k)
            if stop > start and (stop + 1 - start) * each > _PROBLEM_FLOATS:
                break
            stop += 1
        yield start, stop
        start = stop


def _starts(
    samples: Sequence[Tensor], n_clusters: int, n_init: int, max_iter: int, seed: int
) -> Tensor:
    """Return solved starts of each class (B, R, K, D), on a part of its rows."""
    parts, masses = [], []
    for rows in samples:
        part, mass = _start_rows(rows, max(_START_ROWS, _START_ROWS_EACH * n_clusters), seed)
        parts.append(part)
        masses.append(mass)
    padded = pad_sequence(parts, batch_first=True)
    weights = pad_sequence(masses, batch_first=True)
    uniforms = start_uniforms(n_clusters, n_init, torch.Generator().manual_seed(seed))
    labels, _ = gram_kmeans(padded @ padded.transpose(1, 2), weights, uniforms, max_iter)
    members = memberships(labels, n_clusters, padded) * weights[:, None, None]
    means: Tensor = cluster_means(members.flatten(1, 2), padded)
    return means.view(len(samples), n_init, n_clusters, -1)


def _start_rows(rows: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return a weighted part of centred rows (M, D), in which rare far rows are not missed.

    Reference:
        Bachem et al., "Scalable k-Means Clustering via Lightweight Coresets" (2018).
    """
    if len(rows) <= count:
        return rows, torch.ones_like(rows[:, 0])
    far = rows.square().sum(1).cpu()
    share = 0.5 / len(rows) + 0.5 * far / far.sum().clamp_min(torch.finfo(far.dtype).tiny)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(share, count, replacement=True, generator=generator)
    return rows[drawn.to(rows.device)], (1 / (count * share[drawn])).to(rows)


def _finish(
    rows: Tensor, centred: Tensor, starts: Tensor, max_iter: int, tol: float
) -> KMeansResult:
    """Finish the best starts (R, K, D) of one class on all its rows and keep the best."""
    inertias = _assign(centred, starts)[1].sum(1)
    best = starts[inertias.argsort(stable=True)[:_FINALISTS].sort().values]
    finalists, n_iter = lloyd(centred, best, max_iter, tol * float(centred.square().mean()))
    labels, distances = _assign(centred, finalists)
    inertias = distances.sum(1)
    # equal solutions differ by rounding; the first one must win on every run
    winner = int((inertias <= inertias.min() * (1 + _TIE)).nonzero()[0])
    order = _largest_first(labels[winner], starts.shape[1])
    centroids = (finalists[winner] + (rows[0] - centred[0]))[order]
    return KMeansResult(centroids, order.argsort()[labels[winner]], float(inertias[winner]), n_iter)


def _largest_first(labels: Tensor, n_clusters: int) -> Tensor:
    """Return the clusters by falling size; of equal ones, first that of the earliest row."""
    sizes = torch.bincount(labels, minlength=n_clusters)
    positions = torch.arange(len(labels), device=labels.device)
    earliest = torch.full_like(sizes, len(labels))
    earliest = earliest.scatter_reduce(0, labels, positions, "amin")
    by_row = earliest.argsort(stable=True)
    return by_row[sizes[by_row].argsort(descending=True, stable=True)]


def lloyd(rows: Tensor, centroids: Tensor, max_iter: int, limit: float) -> tuple[Tensor, int]:
    """Run Lloyd steps from several starts until none moves more than ``limit``.

    Args:
        rows: Float tensor (M, D).
        centroids: Float tensor (R, K, D).
        max_iter: Most steps.
        limit: Squared movement of all centroids below which a start is at rest.

    Returns:
        Centroids (R, K, D) and the number of steps.
    """
    for step in range(1, max_iter + 1):
        labels, distances = _assign(rows, centroids)
        members = memberships(labels, centroids.shape[1], rows)
        means = cluster_means(members.flatten(0, 1), rows).view_as(centroids)
        updated = _revive(means, members.sum(2) == 0, rows, distances)
        moved = (updated - centroids).square().sum((1, 2)).max()
        centroids = updated
        if moved <= limit:
            return centroids, step
    return centroids, max_iter


def _assign(rows: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels and squared distances (R, M) of rows (M, D) to centroids (R, K, D)."""
    offsets = 0.5 * centroids.square().sum(2).flatten()
    scores = torch.addmm(-offsets, rows, centroids.flatten(0, 1).T)
    best, labels = scores.view(len(rows), *centroids.shape[:2]).max(2)
    return labels.T, (rows.square().sum(1) - 2 * best.T).clamp_min(0)


def memberships(labels: Tensor, n_clusters: int, like: Tensor) -> Tensor:
    """Return the indicator of each cluster (..., K, M) from labels (..., M)."""
    clusters = torch.arange(n_clusters, device=labels.device)
    return (labels.unsqueeze(-2) == clusters[:, None]).to(like)


def cluster_means(members: Tensor, rows: Tensor) -> Tensor:
    """Return the mean of each cluster's rows, 0 where it has none."""
    return members @ rows / members.sum(-1, keepdim=True).clamp_min(TINY)


def _revive(means: Tensor, empty: Tensor, rows: Tensor, distances: Tensor) -> Tensor:
    """Give each empty cluster a row of its own, the farthest from its centroid first."""
    if not empty.any():
        return means
    farthest = distances.topk(min(means.shape[1], len(rows)), dim=1).indices
    for start, cluster in empty.nonzero().tolist():
        rank = int(empty[start, :cluster].sum())
        means[start, cluster] = rows[farthest[start, rank]]
    return means
