"""The account of a batch: its maps, the segments they are told by, and how prototypes vote."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from captum_kmex.explaining.evidence import Question, finish_map
from captum_kmex.explaining.explainer import Explainer
from captum_kmex.explaining.ledger import LedgerRow, build_ledger
from captum_kmex.explaining.segmentation import Segmentation
from captum_kmex.explaining.segmenters import Competition
from captum_kmex.explaining.votes import Classification

__all__ = ["Account", "account_by_segments", "allocated_account"]


@dataclass(frozen=True, eq=False)
class Account:
    """What was found of a batch for one question.

    Attributes:
        maps: Maps (N, 1, H, W) in logit units.
        segments: Segment of each pixel (N, H, W).
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


def allocated_account(
    images: Tensor, explainer: Explainer, question: Question, depth: int, competition: Competition
) -> Account:
    """Return the account of the head's evidence, carried down to a depth."""
    bias, left = question.bias(explainer.head), question.not_linear(explainer.head)
    if competition.given is not None:
        given, density = competition.given, explainer.density(question, depth, competition)
        maps = finish_map(density, images, None, sums=True)
        return Account(maps, given.numbers, given.ledger(maps), explainer.vote(depth), bias, left)
    *_, found = explainer.evidence([question], depth, competition, voting=(depth,))
    maps = finish_map(found.densities[0], images, None, sums=True)
    segments = found.averaged or explainer.segments(depth, competition, is_voting=True)
    account = account_by_segments(maps, segments, bias, explainer, depth, competition)
    return replace(account, not_linear=left)


def account_by_segments(
    maps: Tensor,
    segments: Segmentation,
    bias: Tensor,
    explainer: Explainer,
    depth: int,
    competition: Competition,
) -> Account:
    """Return the account of maps by segments of a depth, collected for a vote.

    Args:
        maps: Maps (N, 1, H, W) in logit units.
        segments: The segments.
        bias: What the maps leave out (N,).
        explainer: The batch.
        depth: Place of the shallowest layer.
        competition: Who competed for the pixels.
    """
    is_free = competition.own_class is None
    verdict = explainer.vote(depth, segments if is_free else None)
    book = explainer.segmenter.codebook(depth)
    ledger = build_ledger(maps, segments.labels, segments.prototypes, book)
    return Account(maps, segments.labels, ledger, verdict, bias)
