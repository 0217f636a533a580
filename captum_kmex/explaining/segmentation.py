"""Assign the pixels of stacked layers to prototypes or to the image's own clusters (eq. 9)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from captum_kmex.bank.prototype_bank import Codebook
from captum_kmex.composite.nearness import LogNearness
from captum_kmex.composite.packed import packed_prototypes
from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.exceptions import FewPixelsWarning, warn_user
from captum_kmex.explaining.image_clusters import cluster_image_rows
from captum_kmex.explaining.segments import connected_segments
from captum_kmex.explaining.speckle import without_speckle
from captum_kmex.explaining.votes import distance_scores
from captum_kmex.grids import grid_text

__all__ = ["Segmentation", "segment_by_class", "segment_by_image", "segment_by_prototypes"]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Segments of one depth.

    Attributes:
        labels: Segment of each pixel, index tensor ``(N, *grid)``.
        count: Number of segments, the same for every image.
        prototypes: Prototype (or cluster) of each segment, integer tensor (N, count).
        nearest: Prototype (or cluster) of each pixel, index tensor ``(N, *grid)``.
        best: Its score, float tensor ``(N, *grid)``.
        stack: The composite whose pixels were assigned.
        nearness: How near the pixels come to each class, where it was asked for.
    """

    labels: Tensor
    count: int
    prototypes: Tensor
    nearest: Tensor
    best: Tensor
    stack: StackedBlocks
    nearness: LogNearness | None = None

    @classmethod
    def of_nearest(
        cls, stack: StackedBlocks, best: Tensor, nearest: Tensor, count: int
    ) -> Segmentation:
        """Let all pixels of a prototype be one segment.

        Args:
            stack: The composite.
            best: Score of each pixel's nearest prototype ``(N, *grid)``.
            nearest: The prototype ``(N, *grid)``.
            count: Number of prototypes.
        """
        everyone = torch.arange(count, device=nearest.device)
        everyone = everyone.expand(nearest.shape[0], -1)  # len() would fix the batch in an export
        return cls(nearest, count, everyone, nearest, best, stack)

    @cached_property
    def distances(self) -> Tensor:
        """Squared distance of each pixel to its prototype, float tensor ``(N, *grid)``."""
        return self.stack.distances(self.best)

    def log_nearness(self, book: Codebook, n_classes: int) -> Tensor:
        """Return minus the mean log distance to each class (N, C) of a class-wise codebook."""
        if self.nearness is not None:
            return self.nearness.scores(n_classes)
        membership = book.membership.to(self.nearest.device)
        return distance_scores(self.stack, book.centroids, membership, n_classes)


def segment_by_image(
    stack: StackedBlocks,
    n_clusters: int,
    seed: int,
    *,
    connected: bool = False,
    min_area: int = 1,
) -> Segmentation:
    """Cluster each image's own pixels and assign them; warn where there are fewer pixels."""
    count = min(n_clusters, math.prod(stack.grid))
    if count < n_clusters:
        warn_user(
            f"n_clusters={n_clusters} is more than the {count} pixels of the "
            f"{grid_text(stack.grid)} grid of this depth; {count} are used. Ask for fewer, or "
            "choose a shallower layer",
            FewPixelsWarning,
        )
    found = stack.best(cluster_image_rows(stack, count, seed=seed))
    return _segmentation(stack, found, count, connected, min_area)


def segment_by_prototypes(
    stack: StackedBlocks,
    book: Codebook,
    *,
    connected: bool = False,
    min_area: int = 1,
    is_voting: bool = False,
) -> Segmentation:
    """Assign pixels to the nearest prototype of all (eq. 9).

    Args:
        stack: Composite of the codebook's depth.
        book: The prototypes.
        connected: Split segments into connected components.
        min_area: Fewest cells of a piece; smaller ones go to their neighbours, the vote apart.
        is_voting: Collect, on the way, how near the pixels come to each class.

    Reference:
        Boubekki & Clemmensen (2026), eq. 9.
    """
    prototypes = packed_prototypes(book, stack.blocks[0])
    collects = is_voting and prototypes.runs is not None
    nearness = stack.nearness_to(prototypes) if collects else None
    found = stack.best(prototypes, nearness)
    segments = _segmentation(stack, found, len(book.centroids), connected, min_area)
    return replace(segments, nearness=nearness)


def segment_by_class(
    stack: StackedBlocks,
    book: Codebook,
    classes: Tensor,
    *,
    connected: bool = False,
    min_area: int = 1,
) -> Segmentation:
    """Assign pixels to the nearest prototype of each image's own class (N,).

    Raises:
        ValueError: The codebook is class-agnostic.
    """
    if book.is_agnostic:
        raise ValueError("restrict needs a class-wise fit; this bank has labels=None")
    found = _best_of_class(stack, book, classes)
    return _segmentation(stack, found, len(book.centroids), connected, min_area)


def _segmentation(
    stack: StackedBlocks,
    found: tuple[Tensor, Tensor],
    count: int,
    connected: bool,
    min_area: int,
) -> Segmentation:
    best, nearest = found
    cleaned = without_speckle(nearest, min_area)
    if not connected:
        whole = Segmentation.of_nearest(stack, best, nearest, count)
        return replace(whole, labels=cleaned)
    labels, owners = connected_segments(cleaned)
    prototypes = pad_sequence(owners, batch_first=True, padding_value=-1).to(nearest.device)
    return Segmentation(labels, prototypes.shape[1], prototypes, nearest, best, stack)


def _best_of_class(stack: StackedBlocks, book: Codebook, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return best scores and indices among the prototypes of each image's own class."""
    nearest = classes.new_zeros((len(classes), *stack.grid))
    best = stack.blocks[0].new_zeros(nearest.shape)
    for c in classes.unique().tolist():
        images = (classes == c).nonzero().squeeze(1)
        own = book.of_class(c).to(classes.device)
        part = stack.select(images)
        best[images], index = part.best(book.centroids.to(part.blocks[0])[own.cpu()])
        nearest[images] = own[index]
    return best, nearest
