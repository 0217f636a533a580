"""Segments, their means and sums, and the class scores they vote for (eqs. 9-11)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from captum_kmex.bank.codebook import is_agnostic

__all__ = [
    "class_scores",
    "connected_segments",
    "enlarged_mask",
    "predicted_class",
    "segment_means",
    "segment_sums",
    "to_classes",
]


def segment_sums(maps: Tensor, segments: Tensor, n_segments: int) -> Tensor:
    """Return the sum of each map over each segment (N, S).

    Args:
        maps: Float tensor ``(N, 1, *grid)`` or ``(N, *grid)``.
        segments: Index tensor ``(N, *grid)`` in [0, S).
        n_segments: S, the same for every image.
    """
    sums = maps.new_zeros(segments.shape[0], n_segments)  # len() would fix the batch in an export
    return sums.scatter_add_(1, segments.flatten(1), maps.flatten(1))


def segment_means(maps: Tensor, segments: Tensor, n_segments: int) -> Tensor:
    """Replace each value by its segment's mean ``(N, 1, *grid)``; every segment keeps its sum.

    Args:
        maps: Float tensor ``(N, 1, *grid)``.
        segments: Index tensor ``(N, *grid)`` in [0, S).
        n_segments: S, the same for every image.
    """
    sums = segment_sums(maps, segments, n_segments)
    areas = segment_sums(torch.ones_like(maps), segments, n_segments)
    means = sums / areas.clamp_min(1)
    return means.gather(1, segments.flatten(1)).view_as(maps)


def to_classes(values: Tensor, membership: Tensor, n_classes: int) -> Tensor:
    """Add up what belongs to each class: (N, K) -> (N, C).

    Args:
        values: Float tensor (N, K), one value a prototype.
        membership: Index tensor (K,), the class of each prototype; or float tensor (K, C),
            its distribution over classes.
        n_classes: C.
    """
    if is_agnostic(membership):
        return values @ membership.to(values)
    owners = membership.to(values.device).expand_as(values)
    return values.new_zeros(values.shape[0], n_classes).scatter_add_(1, owners, values)


def class_scores(segments: Tensor, membership: Tensor, n_classes: int) -> Tensor:
    """Return the share of pixels won by each class's prototypes (N, C) (eq. 10).

    Args:
        segments: Index tensor ``(N, *grid)`` of nearest prototypes.
        membership: Class of each prototype, as in ``to_classes``.
        n_classes: C.

    Reference:
        Boubekki & Clemmensen (2026), eq. 10.
    """
    ones = torch.ones_like(segments, dtype=torch.float32)
    areas = segment_sums(ones, segments, len(membership))
    return to_classes(areas, membership, n_classes) / segments[0].numel()


def predicted_class(
    segments: Tensor, distances: Tensor, membership: Tensor, n_classes: int
) -> Tensor:
    """Return the class with the most pixels (N,); of tied ones, that of the nearest pixels.

    Args:
        segments: Index tensor ``(N, *grid)`` of nearest prototypes.
        distances: Float tensor ``(N, *grid)``, squared distance of each pixel to its prototype.
        membership: Class of each prototype, as in ``to_classes``.
        n_classes: C.
    """
    scores = class_scores(segments, membership, n_classes)
    far = segment_sums(distances, segments, len(membership))
    far = to_classes(far, membership, n_classes) / segments[0].numel()
    mean_distance = far / scores.clamp_min(torch.finfo(scores.dtype).tiny)
    # rounding of the shares must not break a tie; counts differ by a whole pixel
    slack = 1e-6 if is_agnostic(membership) else 0.5 / segments[0].numel()
    tied = scores >= scores.amax(1, keepdim=True) - slack
    return mean_distance.masked_fill(~tied, torch.inf).argmin(1)


def connected_segments(segments: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Split segments into connected components, numbered from 0 in each image.

    Cells that share a side are connected: two neighbours in a signal, four in an image, six in a
    volume.

    Args:
        segments: Index tensor ``(N, *grid)``.

    Returns:
        Index tensor ``(N, *grid)`` of components and, an image, the original id of each one.
    """
    from scipy.sparse import coo_matrix  # a fifth of the package's import, and needed here only
    from scipy.sparse.csgraph import connected_components

    labels = segments.cpu().numpy()
    cells = np.arange(labels.size).reshape(labels.shape)
    pairs = []
    for axis in range(1, labels.ndim):
        own, places = np.moveaxis(labels, axis, 0), np.moveaxis(cells, axis, 0)
        is_same = own[1:] == own[:-1]
        pairs.append(np.stack([places[:-1][is_same], places[1:][is_same]]))
    starts, ends = np.concatenate(pairs, 1)
    graph = coo_matrix((np.ones(len(starts), bool), (starts, ends)), (labels.size, labels.size))
    _, joined = connected_components(graph, directed=False)
    numbered = np.empty_like(labels)
    owners = []
    for image, components in enumerate(joined.reshape(labels.shape)):
        _, first, inverse = np.unique(components, return_index=True, return_inverse=True)
        numbered[image] = inverse.reshape(components.shape)
        owners.append(torch.from_numpy(labels[image].ravel()[first]))
    return torch.from_numpy(numbered).to(segments.device), owners


def enlarged_mask(segments: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return segments on a grid of another size, each image's counted from 0 without gaps.

    Args:
        segments: Index tensor ``(N, *grid)``.
        size: Size of the new grid; a pixel is of the cell that holds its centre.

    Returns:
        Integer tensor ``(N, 1, *size)``, int64.
    """
    for axis, new in enumerate(size, 1):
        old = segments.shape[axis]
        places = (2 * torch.arange(new, device=segments.device) + 1) * old // (2 * new)
        segments = segments.index_select(axis, places)
    return torch.stack([image.unique(return_inverse=True)[1] for image in segments]).unsqueeze(1)
