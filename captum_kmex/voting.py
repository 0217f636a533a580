"""How near an image comes to each class, as its prototypes see it: the distance vote."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from captum_kmex.class_prototypes import ClassPrototypes
from captum_kmex.composite import StackedBlocks

__all__ = ["VOTES", "distance_scores", "mean_log_nearness"]

VOTES = ("distance", "share")
_SCORES = 2**24  # scores at once, one a pixel and prototype
_NEAR = 1e-4  # squared distance, over a row's squared norm, below which nearer is no better


def distance_scores(
    stack: StackedBlocks, centroids: Tensor, membership: Tensor, n_classes: int
) -> Tensor:
    """Return minus the mean log distance of an image's rows to each class (N, C).

    ``score_c = -mean_p log(min_k |z_p - p_k| / |z|)`` over the prototypes k of class c: each
    term belongs to one position and one prototype. The difference of two scores is the mean
    log ratio of the distances to both classes: a naive Bayes rule whose densities fall as a
    power of the distance, so that neither the features' scale nor a temperature matters, and a
    few positions that resemble one class much more outweigh many that resemble all alike. A
    class without prototypes has minus infinity.

    Args:
        stack: Composite rows of N images.
        centroids: Float tensor (K, D).
        membership: Class of each prototype, integer tensor (K,).
        n_classes: C.

    Reference:
        Boiman et al., "In Defense of Nearest-Neighbor Based Image Classification" (2008), whose
        sum of squared distances to training rows this replaces by log distances to prototypes.
    """
    prototypes = ClassPrototypes.of(centroids.to(stack.blocks[0]), membership)
    squares = stack.squared_norms.unsqueeze(1)
    size = math.fsum(weight**2 for weight in stack.weights)
    found = squares.new_full((len(squares), n_classes), -torch.inf)
    known = (prototypes.owner[:, 0] >= 0).nonzero().squeeze(1)
    for classes in known.split(max(1, _SCORES // (squares.numel() * prototypes.count))):
        scores = stack.scores(prototypes.centroids[classes].flatten(0, 1))  # (N, c*K, H, W)
        best = scores.unflatten(1, (len(classes), prototypes.count)).amax(2)
        found[:, classes] = mean_log_nearness(best, squares, size)
    return found


def mean_log_nearness(best: Tensor, squares: Tensor, size: float) -> Tensor:
    """Return minus the mean log distance over positions (N, C).

    Args:
        best: Float tensor (N, C, H, W), the scores of each class's nearest prototype.
        squares: Float tensor (N, 1, H, W), squared norms of the rows.
        size: Squared norm of a row none of whose blocks is zero.
    """
    distances = (squares - 2 * best).clamp_min(0) / size
    return -0.5 * (distances + _NEAR).log().mean((2, 3))
