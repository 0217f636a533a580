"""Which class the prototypes speak for: pixels won (eq. 10), or how near each class comes."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_kmex.class_prototypes import ClassPrototypes
from captum_kmex.composite import StackedBlocks

__all__ = ["VOTES", "distance_scores", "position_shares"]

VOTES = ("distance", "share")
_SCORES = 2**24  # scores at once, one a pixel and prototype


def position_shares(stack: StackedBlocks) -> Tensor:
    """Return what each position counts: its share of the deepest block's norms (N, 1, H, W).

    The head reads the mean of the deepest vectors, so there a position speaks as loudly as its
    vector is long; composite rows have forgotten that length. Shares add up to 1.
    """
    norms = 1 / stack.scales[-1]  # times the block's weight, which cancels
    return norms / norms.sum((2, 3), keepdim=True)


def distance_scores(
    stack: StackedBlocks, centroids: Tensor, membership: Tensor, n_classes: int
) -> Tensor:
    """Return minus the mean squared distance of an image's rows to each class (N, C).

    ``score_c = -sum_p share_p * min_k |z_p - p_k|^2`` over the prototypes k of class c: each
    term belongs to one position and one prototype. A class without prototypes has minus
    infinity.

    Args:
        stack: Composite rows of N images.
        centroids: Float tensor (K, D).
        membership: Class of each prototype, integer tensor (K,).
        n_classes: C.

    Reference:
        Boiman et al., "In Defense of Nearest-Neighbor Based Image Classification" (2008), the
        image-to-class distance, here to prototypes instead of all training rows.
    """
    prototypes = ClassPrototypes.of(centroids.to(stack.blocks[0]), membership)
    shares = position_shares(stack)
    size = (shares * stack.squared_norms.unsqueeze(1)).sum((2, 3))  # (N, 1)
    found = size.new_full((len(size), n_classes), -torch.inf)
    known = (prototypes.owner[:, 0] >= 0).nonzero().squeeze(1)
    for classes in known.split(max(1, _SCORES // (shares.numel() * prototypes.count))):
        scores = stack.scores(prototypes.centroids[classes].flatten(0, 1))  # (N, c*K, H, W)
        nearest = scores.unflatten(1, (len(classes), prototypes.count)).amax(2)
        found[:, classes] = 2 * (nearest * shares).sum((2, 3)) - size
    return found
