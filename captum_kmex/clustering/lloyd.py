"""Lloyd's steps from several starts, and the means and indicators they are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_kmex.clustering.gram import MANY, TINY, first_largest

__all__ = ["assign", "cluster_means", "lloyd", "means_of", "memberships"]

_SCORES = 2**20  # at once, one a row and centroid
_FLOATS = 2**22  # of weighted rows at once


def lloyd(
    rows: Tensor,
    centroids: Tensor,
    max_iter: int,
    limit: float,
    weights: Tensor | None = None,
    squares: Tensor | None = None,
    least_gain: float = 0.0,
) -> tuple[Tensor, int]:
    """Run Lloyd steps from several starts until none moves more than ``limit``.

    Args:
        rows: Float tensor (M, D).
        centroids: Float tensor (R, K, D).
        max_iter: Most steps.
        limit: Squared movement of all centroids below which a start is at rest.
        weights: Weight of each row (M,); all alike if ``None``.
        squares: Squared norm of each row (M,), if known.
        least_gain: Share of the inertia that a step must take off for another one to follow.

    Returns:
        Centroids (R, K, D) and the number of steps.
    """
    squares = rows.square().sum(1) if squares is None else squares
    before: Tensor | float = torch.inf
    for step in range(1, max_iter + 1):
        labels, distances = assign(rows, centroids, squares)
        found = [means_of(rows, own, centroids.shape[1], weights) for own in labels]
        updated = torch.stack(
            [_revive(*means, rows, far) for means, far in zip(found, distances, strict=True)]
        )
        moved = (updated - centroids).square().sum((1, 2)).max()
        centroids = updated
        if moved <= limit:
            return centroids, step
        if least_gain:
            inertias = (distances if weights is None else distances * weights).double().sum(1)
            if torch.all(before - inertias <= least_gain * inertias):
                return centroids, step
            before = inertias
    return centroids, max_iter


def assign(rows: Tensor, centroids: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels and squared distances (R, M) of rows (M, D) to centroids (R, K, D)."""
    count = max(1, _SCORES // centroids[..., 0].numel())
    parts = zip(rows.split(count), squares.split(count), strict=True)
    labels, distances = zip(*(_assigned(*part, centroids) for part in parts), strict=True)
    return torch.cat(labels, 1), torch.cat(distances, 1)


def _assigned(rows: Tensor, squares: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    offsets = -0.5 * centroids.square().sum(2).unsqueeze(2)
    if centroids.shape[1] > MANY and rows.device.type == "cpu":
        scores = torch.addmm(offsets.view(1, -1), rows, centroids.flatten(0, 1).T)
        scores = scores.view(len(rows), *centroids.shape[:2])
        # along memory, and several times faster than torch's
        labels = torch.from_numpy(scores.numpy().argmax(2)).T
        best = scores.gather(2, labels.T.unsqueeze(2)).squeeze(2).T
    else:
        products = (rows @ centroids.flatten(0, 1).T).T  # twice as fast as the other way round
        scores = products.reshape(*centroids.shape[:2], -1) + offsets
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


def means_of(
    rows: Tensor, labels: Tensor, n_clusters: int, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the mean (K, D) of each cluster's rows, and which clusters (K,) have none."""
    if rows.device.type != "cpu":  # there the order of additions varies from run to run
        members = memberships(labels, n_clusters, rows)
        members = members if weights is None else members * weights
        return cluster_means(members, rows), members.sum(1) == 0
    sums = rows.new_zeros(n_clusters, rows.shape[1])
    if weights is None:
        sums.index_add_(0, labels, rows)
    else:
        count = max(1, _FLOATS // rows.shape[1])
        for own, part, mass in zip(*(x.split(count) for x in (labels, rows, weights)), strict=True):
            sums.index_add_(0, own, part * mass.unsqueeze(1))
    sizes = torch.bincount(labels, weights, minlength=n_clusters).to(rows)
    return sums / sizes.clamp_min(TINY).unsqueeze(1), sizes == 0


def _revive(means: Tensor, empty: Tensor, rows: Tensor, distances: Tensor) -> Tensor:
    """Give each empty cluster a row of its own, the farthest from its centroid first."""
    if empty.any():
        means[empty] = rows[distances.topk(int(empty.sum())).indices]
    return means
