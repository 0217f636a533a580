"""``Explainer``: one batch, read once, and everything that follows the forward pass."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor, nn

from captum_kmex.arguments import resolve_depth
from captum_kmex.arguments.masks import masks_of
from captum_kmex.arguments.targets import Target, paired_targets
from captum_kmex.classes import class_of
from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.explaining.evidence import DepthEvidence, Question, carried_down
from captum_kmex.explaining.given_segments import GivenSegments
from captum_kmex.explaining.segmentation import Segmentation
from captum_kmex.explaining.segmenters import Competition, Segmenter
from captum_kmex.explaining.votes import Classification
from captum_kmex.model.head import own_head
from captum_kmex.model.linearised import Head, LinearisedHead
from captum_kmex.model.reading import Reading

__all__ = ["Explainer"]


_FREE = Competition()


@dataclass(frozen=True, eq=False)
class Explainer:
    """One batch, read once.

    Segments, evidence and votes of every depth come from the same forward pass; a depth is the
    place of its shallowest layer, and stacks that layer and all deeper ones.

    Attributes:
        reading: The forward pass.
        segmenter: Who makes the segments: prototypes, or each image's own clusters.
        average_top: Average within the segments of the deepest layer too.
        own_head: A linear layer of the user's on the deepest layer, in place of the model's.
    """

    reading: Reading
    segmenter: Segmenter
    average_top: bool
    own_head: nn.Module | None = None

    @property
    def logits(self) -> Tensor:
        """The model's logits (N, J)."""
        return self.reading.logits

    @cached_property
    def stack(self) -> StackedBlocks:
        """The composite of all layers."""
        return self.segmenter.stack(self.reading.blocks)

    @cached_property
    def head_and_map(self) -> tuple[Head, Tensor]:
        """The head, or what stands in for it, and the map ``(N, D, *grid)`` that it reads.

        Raises:
            NotFittedError: The model has none, and there was no fit to find a stand-in.
            HeadNotFoundError: It has none for these images, but had one in the fit.
            ValueError: The head given by the user does not fit the deepest layer.
        """
        reading, deepest = self.reading, self.reading.blocks[-1]
        if self.own_head is not None:
            return own_head(self.own_head, deepest, reading.logits), deepest
        if reading.head is not None and reading.tap is not None:
            return reading.head, reading.tap
        if self.segmenter.ridge_head is not None:
            return self.segmenter.ridge_head.head(deepest), deepest
        raise self.segmenter.no_head(reading.refusal)

    @property
    def head(self) -> Head:
        """The head of ``head_and_map``."""
        return self.head_and_map[0]

    @property
    def head_kind(self) -> str:
        """What makes the maps: ``exact``, ``linearised``, ``ridge`` or ``own``."""
        if self.own_head is not None:
            return "own"
        if self.reading.head is None:
            return "ridge"
        return "linearised" if isinstance(self.reading.head, LinearisedHead) else "exact"

    @property
    def ridge_r2(self) -> float | None:
        """R2 of the ridge head that stands in for the model's, if one does."""
        ridge = self.segmenter.ridge_head
        return None if ridge is None or self.head_kind != "ridge" else ridge.r2

    def depth(self, depth: int | str) -> int:
        """Return the place of a depth's shallowest layer.

        Raises:
            ValueError: No such layer.
        """
        return resolve_depth(depth, self.reading.layers)

    def question(self, target: Target, contrast: Target = None, units: str = "logit") -> Question:
        """Resolve what the user asks; errors are those of ``Question.of``."""
        return Question.of(target, contrast, self.logits, units)

    def questions(
        self, targets: Sequence[Target], contrasts: Sequence[Target] | None
    ) -> list[Question]:
        """Resolve several at once, in logit units.

        Raises:
            TargetError: Malformed targets, or not as many contrasts.
        """
        pairs = paired_targets(targets, contrasts)
        return [
            Question.of(*pair, self.logits, "logit", (f"targets[{i}]", f"contrasts[{i}]"))
            for i, pair in enumerate(pairs)
        ]

    def competition(
        self,
        question: Question,
        restrict: str | None,
        connected: bool,
        min_area: int = 1,
        segments: Tensor | np.ndarray | None = None,
    ) -> Competition:
        """Return who competes for the pixels, by the user's options.

        Args:
            question: What is explained.
            restrict: ``"predicted"``, so that only prototypes of its class compete.
            connected: Split segments into connected components.
            min_area: Fewest cells of a piece.
            segments: A mask ``(N, 1, *size)`` or ``(1, 1, *size)`` in place of all that.

        Raises:
            NotFittedError: A restriction needs prototypes.
            ValueError: The explained class has no prototypes, or segments from outside are to be
                made otherwise, or are none of these images.
        """
        if segments is not None:
            if restrict is not None or connected or min_area > 1:
                raise ValueError(
                    "segments= are taken as they are; leave restrict=, connected= and min_area= out"
                )
            masks = masks_of(segments, self.reading.blocks[-1])
            return Competition(given=GivenSegments.of(masks, self.logits))
        if restrict is None:
            return Competition(None, connected, min_area)
        classes = class_of(question.target, self.logits)
        self.segmenter.check_classes(classes)
        return Competition(classes, connected, min_area)

    def segments(
        self, depth: int, competition: Competition = _FREE, *, is_voting: bool = False
    ) -> Segmentation:
        """Return the segments of a depth.

        Args:
            depth: Place of the shallowest layer.
            competition: Who competes, and whether segments are split.
            is_voting: They will vote, so what the vote reads is collected on the way.
        """
        return self.segmenter.segments(self.stack, depth, competition, is_voting)

    def density(self, question: Question, depth: int, competition: Competition) -> Tensor:
        """Return a question's map ``(N, 1, *grid)`` at one depth; its mean is output minus bias.

        Segments from outside take the place of all depths: the head's map is averaged within
        them, on their own grid.
        """
        if competition.given is not None:
            return competition.given.average(question.density(*self.head_and_map))
        *_, found = self.evidence([question], depth, competition)
        return found.densities[0]

    def evidence(
        self,
        questions: Sequence[Question],
        last: int = 0,
        competition: Competition = _FREE,
        *,
        voting: Container[int] = (),
    ) -> Iterator[DepthEvidence]:
        """Carry the head's maps down: resize, average within segments, repeat.

        Args:
            questions: What is explained; segments are made once for all.
            last: The shallowest depth to go to.
            competition: Who competes for the pixels.
            voting: Depths whose segments will vote.

        Returns:
            The depths, from the deepest layer alone to ``last``.
        """
        densities = [question.density(*self.head_and_map) for question in questions]

        def segment(depth: int) -> Segmentation:
            rules = competition if depth == last else competition.before()
            return self.segments(depth, rules, is_voting=depth in voting)

        return carried_down(densities, self.stack, last, self.average_top, segment)

    def vote(self, depth: int, segments: Segmentation | None = None) -> Classification | None:
        """Return how a depth's prototypes classify; ``None`` without prototypes.

        Args:
            depth: Place of the shallowest layer.
            segments: The depth's segments, where they are known and all prototypes competed.
        """
        if self.segmenter.codebook(depth) is None:  # no clusters in vain
            return None
        segments = segments or self.segments(depth, is_voting=True)
        return self.segmenter.vote(segments, depth, self.logits)
