"""Starts of k-means for so many clusters that inner products of all rows would not fit."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_kmex.clustering.gram import draw
from captum_kmex.clustering.lloyd import assign, lloyd

__all__ = ["best_start"]


def best_start(
    rows: Tensor, squares: Tensor, weights: Tensor, uniforms: Tensor, max_iter: int
) -> Tensor:
    """Return the centroids (K, D) of the best of some greedy k-means++ starts.

    Args:
        rows: Float tensor (M, D).
        squares: Their squared norms (M,).
        weights: Their weights (M,).
        uniforms: Random numbers (K, R, T) from ``start_uniforms``, for R starts.
        max_iter: Lloyd steps of each start.

    Reference:
        Lloyd (1982); Arthur & Vassilvitskii, k-means++ (2007).
    """
    best, least = rows[:0], torch.inf
    for own in uniforms.to(rows).unbind(1):
        start = rows[_plus_plus(rows, squares, weights, own)]
        (centroids,), _ = lloyd(rows, start[None], max_iter, 0.0, weights, squares)
        _, distances = assign(rows, centroids[None], squares)
        inertia = float(distances[0].double() @ weights.double())
        if inertia < least:
            best, least = centroids, inertia
    return best


def _plus_plus(rows: Tensor, squares: Tensor, weights: Tensor, uniforms: Tensor) -> Tensor:
    """Return greedily chosen rows (K,), as ``gram_kmeans`` chooses them."""

    def distances(chosen: Tensor) -> Tensor:
        products = rows[chosen] @ rows.T
        return (squares[chosen, None] + squares - 2 * products).clamp_min_(0)

    found = [draw(weights, uniforms[0, :1])]
    nearest = distances(found[0])[0]
    for uniform in uniforms[1:]:
        drawn = draw(nearest * weights, uniform)
        trials = distances(drawn).minimum(nearest)  # (T, M)
        best = (trials @ weights).argmin(keepdim=True)
        found.append(drawn[best])
        nearest = trials[best[0]]
    return torch.cat(found)
