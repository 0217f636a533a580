"""k-means in Gram space: many problems and many starts at once, from inner products alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["draw", "first_largest", "gram_kmeans", "plus_plus", "start_uniforms"]

TINY = 1e-30  # a cluster without weight has no mean; this keeps its division quiet
Distances = Callable[[Tensor], Tensor]
MANY = 64  # so many maps are compared one by one, faster than a strided argmax


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
    distances.clamp_min_(0)
    problems = torch.arange(len(gram), device=gram.device)
    labels = plus_plus(
        lambda chosen: distances[problems.view(-1, *[1] * (chosen.ndim - 1)), chosen],
        weights,
        uniforms,
    )
    inertias = gram.new_empty(labels.shape[:2])
    total = (squares * weights).sum(1, keepdim=True)
    active = torch.arange(len(gram), device=gram.device)
    current = labels
    for step in range(max_iter + 1):
        moved, explained = _lloyd_step(gram, weights, current, len(uniforms))
        inertias[active] = total[active] - explained
        is_moving = (moved != current).flatten(1).any(1)
        if step == max_iter or not is_moving.any():
            break
        current = moved
        labels[active] = moved
        if 2 * int(is_moving.sum()) <= len(active):  # those at rest need no further step
            gram, weights, current = gram[is_moving], weights[is_moving], current[is_moving]
            active = active[is_moving]
    return labels, inertias


def _lloyd_step(
    gram: Tensor, weights: Tensor, labels: Tensor, n_clusters: int
) -> tuple[Tensor, Tensor]:
    """Return the next labels (B, R, M) and what the present means explain (B, R)."""
    clusters = torch.arange(n_clusters, device=gram.device)[:, None]
    members = (labels.unsqueeze(2) == clusters) * weights[:, None, None]  # (B, R, K, M)
    sizes = members.sum(3)
    shares = 1 / sizes.clamp_min(TINY)
    products = (members.flatten(1, 2) @ gram).view(members.shape)
    products *= shares.unsqueeze(3)
    norms = members.mul_(products).sum(3) * shares
    scores = products.sub_(0.5 * norms.masked_fill(sizes == 0, torch.inf).unsqueeze(3))
    return first_largest(scores), (sizes * norms).sum(2)


def first_largest(scores: Tensor) -> Tensor:
    """Return the index of the largest entry along dimension -2, the first one at ties."""
    count = scores.shape[-2]
    if count > MANY or scores.device.type != "cpu":
        return scores.argmax(-2)
    best, index = scores[..., 0, :].clone(), torch.zeros_like(scores[..., 0, :], dtype=torch.int64)
    for k in range(1, count):
        candidate = scores[..., k, :]
        index.masked_fill_(candidate > best, k)
        torch.maximum(best, candidate, out=best)
    return index


def plus_plus(distances: Distances, weights: Tensor, uniforms: Tensor) -> Tensor:
    """Return the nearest of greedily chosen rows for each row (B, R, M).

    Each step draws several rows with probability proportional to weight and squared distance
    and keeps the one that lowers the inertia most, as scikit-learn does.

    Args:
        distances: Gives the squared distances (B, ..., M) of chosen rows (B, ...) to all rows.
        weights: Weight of each row (B, M).
        uniforms: Random numbers (K, R, T) from ``start_uniforms``.

    Reference:
        Arthur & Vassilvitskii, k-means++ (2007).
    """
    uniforms = uniforms.to(weights)
    first = draw(weights, uniforms[0, :, 0].expand(len(weights), -1))
    nearest = distances(first)  # (B, R, M)
    labels = torch.zeros_like(nearest, dtype=torch.int64)
    weighted = weights[:, None]
    for k, uniform in enumerate(uniforms[1:], 1):
        drawn = draw(nearest * weighted, uniform.expand(len(weights), -1, -1))  # (B, R, T)
        trials = nearest.unsqueeze(2).minimum(distances(drawn))
        inertias = (trials @ weights[:, None, :, None]).squeeze(3)
        best = inertias.argmin(2)[:, :, None, None].expand(-1, -1, 1, trials.shape[3])
        chosen = trials.gather(2, best).squeeze(2)
        labels.masked_fill_(chosen < nearest, k)
        nearest = chosen
    return labels


def draw(mass: Tensor, uniform: Tensor) -> Tensor:
    """Draw indices along the last dimension with probability proportional to the mass."""
    cumulated = mass.cumsum(-1)
    # a little less than one, or rounding would pass the end, where padding lies
    aim = uniform * (1 - 1e-6) * cumulated[..., -1:]
    drawn = torch.searchsorted(cumulated, aim, right=True)
    return drawn.clamp_max(mass.shape[-1] - 1)
