"""Who makes the segments: the prototypes of a bank, or each image's own clusters.

Whatever differs between a fitted attribution and one that is not is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from captum_kmex.bank.checks import check_call, check_channels, check_classes, check_logits
from captum_kmex.bank.prototype_bank import Codebook, PrototypeBank
from captum_kmex.bank.ridge_head import Surrogate
from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.composite.weighting import block_weights
from captum_kmex.exceptions import HeadNotFoundError, NotFittedError
from captum_kmex.explaining.given_segments import GivenSegments
from captum_kmex.explaining.segmentation import (
    Segmentation,
    segment_by_class,
    segment_by_image,
    segment_by_prototypes,
)
from captum_kmex.explaining.votes import VOTES, Classification

__all__ = ["Competition", "ImageClusters", "PrototypeSegments", "Segmenter", "weighted_stack"]


@dataclass(frozen=True, eq=False)
class Competition:
    """How pixels are assigned.

    Attributes:
        own_class: Only prototypes of this class of each image (N,) compete; all if ``None``.
        connected: Segments are split into connected components.
        min_area: Fewest cells of a piece; smaller ones go to the neighbours.
        given: The segments, if they come from outside: then nothing competes.
    """

    own_class: Tensor | None = None
    connected: bool = False
    min_area: int = 1
    given: GivenSegments | None = None

    def before(self) -> Competition:
        """Return how pixels are assigned on the way to the depth explained: speckle stays.

        A few cells of a coarser grid are no speckle.
        """
        return replace(self, min_area=1)


@dataclass(frozen=True, eq=False)
class ImageClusters:
    """Each image's own clusters; no fit, no data (NAVE).

    Args:
        n_clusters: Clusters an image, at most.
        seed: Seed of k-means.
        weighting: Weight of each block, as ``block_weights`` takes it.
    """

    n_clusters: int
    seed: int
    weighting: str | Sequence[float]

    @property
    def ridge_head(self) -> None:
        """``None``: only a fit gives one."""

    @property
    def has_classes(self) -> bool:
        """``False``: an image's clusters belong to no class."""
        return False

    def check_call(self, _layers: Sequence[str], _images: Tensor, _at_input: bool) -> None:
        """Do nothing: there is no fit to differ from."""

    def check_logits(self, _logits: Tensor) -> None:
        """Do nothing, likewise."""

    def stack(self, blocks: Sequence[Tensor]) -> StackedBlocks:
        """Return the composite of the layers."""
        return weighted_stack(blocks, self.weighting)

    def codebook(self, _depth: int) -> None:
        """Return ``None``: there are no prototypes."""

    def segments(
        self, stack: StackedBlocks, depth: int, competition: Competition, _is_voting: bool
    ) -> Segmentation:
        """Return the segments of the stack from a depth on; nobody votes."""
        connected, min_area = competition.connected, competition.min_area
        return segment_by_image(
            stack.suffix(depth), self.n_clusters, self.seed, connected=connected, min_area=min_area
        )

    def check_classes(self, _classes: Tensor) -> None:
        """Refuse to let the prototypes of a class alone compete."""
        raise NotFittedError("restrict needs prototypes; call fit(loader) first")

    def vote(self, _segments: Segmentation, _depth: int, _logits: Tensor) -> None:
        """Return ``None``: an image's clusters belong to no class."""

    def no_head(self, refusal: str) -> Exception:
        """Return the error for a model without a head."""
        return NotFittedError(
            f"{refusal}. Without such a head a ridge surrogate of the logits is used, "
            "which fit(loader) provides; segment(x) works at once"
        )


@dataclass(frozen=True, eq=False)
class PrototypeSegments:
    """The prototypes of a bank, for one depth each codebook.

    Args:
        bank: The fitted prototypes.
        rule: How they vote, a key of ``VOTES``.
    """

    bank: PrototypeBank
    rule: str

    @property
    def ridge_head(self) -> Surrogate | None:
        """What stands in for the head of a model that has none."""
        return self.bank.surrogate

    @property
    def has_classes(self) -> bool:
        """Whether the fit saw classes, so that prototypes can vote."""
        return self.bank.has_logits

    def check_call(self, layers: Sequence[str], images: Tensor, at_input: bool) -> None:
        """Compare a call with the fit; errors are those of ``bank.checks.check_call``."""
        check_call(self.bank, layers, images, at_input)

    def check_logits(self, logits: Tensor) -> None:
        """Raise ``ValueError`` for a model with another number of logits than the fit's."""
        check_logits(self.bank, logits)

    def stack(self, blocks: Sequence[Tensor]) -> StackedBlocks:
        """Return the composite of the layers, with the weights of the fit.

        Raises:
            ValueError: The layers have other channels than the prototypes.
        """
        check_channels(self.bank, blocks)
        return StackedBlocks(tuple(blocks), self.bank.weights)

    def codebook(self, depth: int) -> Codebook:
        """Return the prototypes of a depth."""
        return self.bank.codebooks[depth]

    def segments(
        self, stack: StackedBlocks, depth: int, competition: Competition, is_voting: bool
    ) -> Segmentation:
        """Return the segments of the stack from a depth on, and what a vote reads if asked."""
        stack, book = stack.suffix(depth), self.codebook(depth)
        connected, min_area = competition.connected, competition.min_area
        if competition.own_class is not None:
            return segment_by_class(
                stack, book, competition.own_class, connected=connected, min_area=min_area
            )
        is_voting &= VOTES[self.rule].reads_nearness
        return segment_by_prototypes(
            stack, book, connected=connected, min_area=min_area, is_voting=is_voting
        )

    def check_classes(self, classes: Tensor) -> None:
        """Raise ``ValueError`` for a class that the bank has no prototypes of."""
        check_classes(self.bank, classes)

    def vote(self, segments: Segmentation, depth: int, logits: Tensor) -> Classification | None:
        """Return how the prototypes of a depth classify, from segments for which all competed.

        ``None`` where the fit saw no logits that they could vote by.
        """
        if not self.has_classes:
            return None
        ballot = _SegmentBallot(segments, self.codebook(depth), self.bank.n_classes)
        scores, prediction = VOTES[self.rule].count(ballot)
        return Classification(scores, prediction, logits)

    def no_head(self, refusal: str) -> Exception:
        """Return the error for a model without a head, where the fit made none either."""
        if not self.bank.has_logits:
            return HeadNotFoundError(
                f"{refusal}. The model returned no logits in the fit, so the bank holds no ridge "
                'surrogate of them; surrogate="linearised" needs none'
            )
        return HeadNotFoundError(
            f"{refusal}. The images of the fit had an exact head, so the bank holds no "
            "ridge surrogate of the logits; check these inputs, or fit again"
        )


Segmenter = ImageClusters | PrototypeSegments


@dataclass(frozen=True, eq=False)
class _SegmentBallot:
    """The ballot of a segmentation."""

    segments: Segmentation
    book: Codebook
    n_classes: int

    @property
    def membership(self) -> Tensor:
        return self.book.membership.to(self.nearest.device)

    @property
    def nearest(self) -> Tensor:
        return self.segments.nearest

    @property
    def distances(self) -> Tensor:
        return self.segments.distances

    def log_nearness(self) -> Tensor:
        return self.segments.log_nearness(self.book, self.n_classes)


def weighted_stack(blocks: Sequence[Tensor], weighting: str | Sequence[float]) -> StackedBlocks:
    """Return the composite of some layers, weighted by a rule."""
    widths = [block.shape[1] for block in blocks]
    return StackedBlocks(tuple(blocks), block_weights(weighting, widths))
