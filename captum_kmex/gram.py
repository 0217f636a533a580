"""k-means in Gram space: many problems and many starts at once, from inner products alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["gram_kmeans", "start_uniforms"]

TINY = 1e-30  # a cluster without weight has no mean; this keeps its division quiet


def start_uniforms(n_clusters: int, n_init: int, generator: torch.Generator) -> Tensor:
    """Return the random numbers (K, R, T) of R greedy k-means++ starts with T trials."""
    trials = 2 + int(math.log(n_clusters))
    return torch.rand(n_clusters, n_init, trials, generator=generator)


def gram_kmeans(
    gram: Tensor, weights: Tensor, uniforms: Tensor, max_iter: int = 100
) -> tuple[Tensor, Tensor]:
    """Run greedy k-means++ and Lloyd to rest, for B problems and R starts together.

    Distances to a mean of rows need only inner products, so the cost of a step depends on
    the number of rows and not on their length. Every problem draws the same random numbers
    and a problem at rest stays so: none depends on what it is solved beside.

    Args:
        gram: Inner products of each problem's rows (B, M, M).
        weights: Weight of each row (B, M), 0 for padding where a problem has fewer.
        uniforms: Random numbers (K, R, T) from ``start_uniforms``.
        max_iter: Most Lloyd steps.

    Returns:
        Labels (B, R, M) and inertias (B, R).

    Reference:
        Lloyd (1982); Arthur & Vassilvitskii, k-means++ (2007).
    """
    squares = gram.diagonal(dim1=1, dim2=2)
    distances = squares[:, :, None] + squares[:, None] - 2 * gram
    labels = _plus_plus(distances.clamp_min(0), weights, uniforms)
    clusters = torch.arange(len(uniforms), device=gram.device)[:, None]
    total = (squares * weights).sum(1, keepdim=True)
    for step in range(max_iter + 1):
        members = (labels.unsqueeze(2) == clusters) * weights[:, None, None]  # (B, R, K, M)
        sizes = members.sum(3)
        means = members / sizes.clamp_min(TINY).unsqueeze(3)
        products = (means.flatten(1, 2) @ gram).view(means.shape)
        norms = (means * products).sum(3)
        scores = products - 0.5 * norms.unsqueeze(3)
        scores = scores.masked_fill((sizes == 0).unsqueeze(3), -torch.inf)
        moved = scores.max(2).indices  # ten times as fast as argmax over a short inner dimension
        if step == max_iter or torch.equal(moved, labels):
            break
        labels = moved
    return labels, total - (sizes * norms).sum(2)


def _plus_plus(distances: Tensor, weights: Tensor, uniforms: Tensor) -> Tensor:
    """Return the nearest of greedily chosen rows for each row (B, R, M).

    Each step draws several rows with probability proportional to weight and squared distance
    and keeps the one that lowers the inertia most, as scikit-learn does.
    """
    uniforms = uniforms.to(distances)
    problems = torch.arange(len(distances), device=distances.device)[:, None]
    first = _draw(weights, uniforms[0, :, 0].expand(len(distances), -1))
    chosen, nearest = [first], distances[problems, first]  # (B, R), (B, R, M)
    weighted = weights[:, None]
    for uniform in uniforms[1:]:
        drawn = _draw(nearest * weighted, uniform.expand(len(distances), -1, -1))  # (B, R, T)
        trials = nearest.unsqueeze(2).minimum(distances[problems[..., None], drawn])
        best = (trials * weighted.unsqueeze(2)).sum(3).min(2, keepdim=True).indices
        chosen.append(drawn.gather(2, best).squeeze(2))
        nearest = trials.gather(2, best[..., None].expand(-1, -1, -1, trials.shape[3])).squeeze(2)
    seeds = torch.stack(chosen, 2)  # (B, R, K)
    return distances[problems[..., None], seeds].min(2).indices


def _draw(mass: Tensor, uniform: Tensor) -> Tensor:
    """Draw indices along the last dimension with probability proportional to the mass."""
    cumulated = mass.cumsum(-1)
    # a little less than one, or rounding would pass the end, where padding lies
    aim = uniform * (1 - 1e-6) * cumulated[..., -1:]
    drawn = torch.searchsorted(cumulated, aim, right=True)
    return drawn.clamp_max(mass.shape[-1] - 1)
