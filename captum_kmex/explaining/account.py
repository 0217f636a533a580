"""The account of a batch: its maps, the segments they are told by, and how prototypes vote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor

from captum_kmex.explaining.evidence import Question, finish_map
from captum_kmex.explaining.explainer import Explainer
from captum_kmex.explaining.given_segments import GivenSegments
from captum_kmex.explaining.ledger import LedgerRow, build_ledger
from captum_kmex.explaining.segmentation import Segmentation
from captum_kmex.explaining.segmenters import Competition
from captum_kmex.explaining.votes import Classification

__all__ = ["Account", "accounts_by_segments", "allocated_accounts"]


@dataclass(frozen=True, eq=False)
class Account:
    """What was found of a batch for one question.

    Attributes:
        maps: Maps ``(N, 1, *grid)`` in logit units.
        segments: Segment of each pixel ``(N, *grid)``.
        ledger: Rows of each image.
        verdict: How the prototypes vote, if there are any.
        bias: What no pixel accounts for (N,).
        not_linear: What a linearised tail leaves over of the output (N,).
        evidence: ``"allocated"`` or ``"measured"``.
        enough: The fewest segments of each image that keep its class, if that was measured.
        needed: The fewest without which its class is another one, likewise.
    """

    maps: Tensor
    segments: Tensor
    ledger: tuple[tuple[LedgerRow, ...], ...]
    verdict: Classification | None
    bias: Tensor
    not_linear: Tensor | None = None
    evidence: str = "allocated"
    enough: tuple[tuple[int, ...] | None, ...] | None = None
    needed: tuple[tuple[int, ...] | None, ...] | None = None


def allocated_accounts(
    images: Tensor,
    explainer: Explainer,
    questions: Sequence[Question],
    depth: int,
    competition: Competition,
) -> list[Account]:
    """Return the account of the head's evidence for each question, carried down to a depth."""
    biases = [question.bias(explainer.head) for question in questions]
    if competition.given is not None:
        accounts = _given_accounts(images, explainer, questions, biases, depth, competition)
    else:
        *_, found = explainer.evidence(questions, depth, competition, voting=(depth,))
        maps = [finish_map(density, images, None, sums=True) for density in found.densities]
        segments = found.averaged or explainer.segments(depth, competition, is_voting=True)
        accounts = accounts_by_segments(maps, segments, biases, explainer, depth, competition)
    left = [question.not_linear(explainer.head) for question in questions]
    return [replace(a, not_linear=over) for a, over in zip(accounts, left, strict=True)]


def accounts_by_segments(
    maps: Sequence[Tensor],
    segments: Segmentation,
    biases: Sequence[Tensor],
    explainer: Explainer,
    depth: int,
    competition: Competition,
) -> list[Account]:
    """Return the accounts of maps by segments of a depth, collected for a vote.

    Args:
        maps: Maps ``(N, 1, *grid)`` in logit units, one a question.
        segments: The segments of all of them.
        biases: What the maps leave out, (N,) each.
        explainer: The batch.
        depth: Place of the shallowest layer.
        competition: Who competed for the pixels.
    """
    is_free = competition.own_class is None
    verdict = explainer.vote(depth, segments if is_free else None)
    book = explainer.segmenter.codebook(depth)
    labels, has_classes = segments.labels, explainer.segmenter.has_classes
    ledgers = [build_ledger(own, labels, segments.prototypes, book, has_classes) for own in maps]
    return [
        Account(own, labels, ledger, verdict, bias)
        for own, ledger, bias in zip(maps, ledgers, biases, strict=True)
    ]


def _given_accounts(
    images: Tensor,
    explainer: Explainer,
    questions: Sequence[Question],
    biases: Sequence[Tensor],
    depth: int,
    competition: Competition,
) -> list[Account]:
    """Return the accounts by segments from outside."""
    given, verdict = cast("GivenSegments", competition.given), explainer.vote(depth)
    densities = [explainer.density(question, depth, competition) for question in questions]
    maps = [finish_map(density, images, None, sums=True) for density in densities]
    return [
        Account(own, given.numbers, given.ledger(own), verdict, bias)
        for own, bias in zip(maps, biases, strict=True)
    ]
