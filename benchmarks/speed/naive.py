"""The method as the paper's equations say it: resize, concatenate, normalise, compare, scatter.

It is both the rival that our tail is timed against and the oracle of its result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["assert_nearest", "naive_labels", "naive_map", "naive_rows", "naive_tail"]

# excess of squared distance at which float32 cannot tell two prototypes: relative to the distance,
# or, where a prototype is almost the row itself, roundings of the row's squared norm
_TIE = 1e-5
_ROUNDINGS = 8 * torch.finfo(torch.float32).eps


def naive_rows(blocks: Sequence[Tensor]) -> Tensor:
    """Return the composite rows (N*H*W, D) of blocks, on the grid of the first."""
    grid = blocks[0].shape[2:]
    resized = [F.interpolate(block, grid, mode="bilinear") for block in blocks]
    # (N, D, H, W) -> (N*H*W, D)
    stacked = torch.cat([F.normalize(block, dim=1) for block in resized], 1)
    return stacked.permute(0, 2, 3, 1).flatten(0, 2)


def naive_labels(rows: Tensor, centroids: Tensor) -> Tensor:
    """Return the nearest centroid of each row."""
    return torch.cdist(rows, centroids).argmin(1)


def naive_map(blocks: Sequence[Tensor], column: Tensor, labels: Sequence[Tensor]) -> Tensor:
    """Carry the head's evidence down and average it within segments.

    Args:
        blocks: Float tensors (N, D_l, h_l, w_l), shallow to deep.
        column: The head's column of each image's class (N, D_L).
        labels: Segment of each row (N*H*W,) at each depth but the deepest, shallow to deep.

    Returns:
        Float tensor (N, 1, H, W).
    """
    images = len(column)
    density = torch.einsum("ndhw,nd->nhw", blocks[-1], column).unsqueeze(1)
    for block, found in zip(reversed(blocks[:-1]), reversed(labels), strict=True):
        density = F.interpolate(density, block.shape[2:], mode="bilinear")
        flat, segment = density.flatten(1), found.view(images, -1)
        shape = (images, int(found.max()) + 1)
        sums = flat.new_zeros(shape).scatter_add_(1, segment, flat)
        sizes = flat.new_zeros(shape).scatter_add_(1, segment, torch.ones_like(flat))
        density = (sums / sizes).gather(1, segment).view_as(density)
    return density / (density.shape[2] * density.shape[3])


def naive_tail(
    blocks: Sequence[Tensor], column: Tensor, centroids: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return maps and labels of each depth but the deepest, from activations."""
    with torch.inference_mode():
        labels = [
            naive_labels(naive_rows(blocks[depth:]), centroids[depth])
            for depth in range(len(blocks) - 1)
        ]
        return naive_map(blocks, column, labels), labels


def assert_nearest(rows: Tensor, centroids: Tensor, ours: Tensor, naive: Tensor) -> float:
    """Assert that labels differ from the naive ones only in ties; return the share of equals."""
    different = (ours != naive).nonzero().squeeze(1)
    vectors = rows[different].double()
    least = _squares(vectors, centroids, naive[different])
    excess = _squares(vectors, centroids, ours[different]) - least
    allowed = torch.maximum(_TIE * least, _ROUNDINGS * vectors.square().sum(1))
    assert (excess <= allowed).all(), "a label is not that of the nearest prototype"
    return 1 - len(different) / len(ours)


def _squares(rows: Tensor, centroids: Tensor, labels: Tensor) -> Tensor:
    return (rows - centroids[labels].double()).square().sum(1)
