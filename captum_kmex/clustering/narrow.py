"""Starts of k-means on few columns: the directions in which the rows of a class differ most."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_kmex.clustering.gram import TINY, plus_plus, start_uniforms
from captum_kmex.clustering.lloyd import memberships

__all__ = ["leading_directions", "narrow_starts"]

_FEWEST = 32  # directions, at least
_EACH = 4  # and for each cluster


def leading_directions(rows: Tensor, weights: Tensor, n_clusters: int) -> Tensor | None:
    """Return directions (D, d) that hold most of the rows' variance, orthonormal.

    Clusters of rows differ along few of them: what is left out adds the same to the distance of a
    row to every centroid, or nearly so.

    Args:
        rows: Float tensor (M, D), a part of a class.
        weights: Their weights (M,).
        n_clusters: Number of clusters.

    Returns:
        The directions, the same for every seed of k-means; ``None`` where rows are so narrow
        already that nothing is gained.

    Reference:
        Halko et al., "Finding Structure with Randomness" (2011); Cohen et al., "Dimensionality
        Reduction for k-Means Clustering" (2015).
    """
    count = max(_FEWEST, _EACH * n_clusters)
    if rows.shape[1] <= 2 * count:
        return None
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(rows.shape[1], count, generator=generator).to(rows)
    share = weights / weights.sum()
    centred = (rows - share @ rows) * share.sqrt().unsqueeze(1)
    found: Tensor = torch.linalg.qr(centred.T @ (centred @ drawn))[0]
    return found


def narrow_starts(
    rows: Tensor, mass: Tensor, n_clusters: int, n_init: int, max_iter: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return labels and inertias of starts, as ``gram_starts`` does, by steps on the rows.

    Args:
        rows: Float tensor (B, M, d), narrow.
        mass: Weight of each row (B, M).
        n_clusters: Number of clusters.
        n_init: Number of starts R.
        max_iter: Most Lloyd steps.
        seed: Seed of the starts.

    Returns:
        Labels (B, R, M) and inertias (B, R).
    """
    uniforms = start_uniforms(n_clusters, n_init, torch.Generator().manual_seed(seed))
    squares = rows.square().sum(2)
    problems = torch.arange(len(rows), device=rows.device)[:, None]

    def distances(chosen: Tensor) -> Tensor:
        flat = chosen.flatten(1)
        near = torch.bmm(rows[problems, flat], rows.mT).mul_(-2)
        near += squares.gather(1, flat).unsqueeze(2)
        return near.add_(squares.unsqueeze(1)).clamp_min_(0).view(*chosen.shape, -1)

    members = memberships(plus_plus(distances, mass, uniforms), n_clusters, rows)
    total = (squares * mass).sum(1, keepdim=True)
    for step in range(max_iter + 1):
        scores, explained = _step(rows, mass, members)
        moved = (scores == scores.amax(2, keepdim=True)).to(rows)
        if step == max_iter or torch.equal(moved, members):
            break
        members = moved
    return members.argmax(2), total - explained


def _step(rows: Tensor, mass: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows' scores for the present means, and what these explain (B, R).

    Args:
        rows: Float tensor (B, M, d).
        mass: Weight of each row (B, M).
        members: Float tensor (B, R, K, M), 1 where a row belongs to a cluster; a row as near to
            two belongs to both, which labels cost more than a start is worth.
    """
    members = members * mass[:, None, None]
    sizes = members.sum(3)
    means = torch.bmm(members.flatten(1, 2), rows).unflatten(1, sizes.shape[1:])
    means /= sizes.clamp_min(TINY).unsqueeze(3)
    norms = means.square().sum(3)
    offsets = -0.5 * norms.masked_fill(sizes == 0, torch.inf)
    scores = torch.baddbmm(offsets.flatten(1).unsqueeze(2), means.flatten(1, 2), rows.mT)
    return scores.unflatten(1, sizes.shape[1:]), (sizes * norms).sum(2)
