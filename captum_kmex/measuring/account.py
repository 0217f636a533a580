"""The account of one image: what the removal of its parts says about its evidence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_kmex.explaining.evidence import Question
from captum_kmex.explaining.ledger import SURE
from captum_kmex.measuring.parts import Coalitions
from captum_kmex.measuring.posterior import Design
from captum_kmex.measuring.prior import shared_out

__all__ = ["ImageAccount", "cannot_be_told", "image_account"]

_TELLING = 0.05  # a probability that changes by less says nothing of where

# tuned on validation pictures alone: see docs/measured.md
_CHANCE_NOISES = (0.3,)
_NOISES = (1e-6, 1e-2, 10.0)


@dataclass(frozen=True, eq=False)
class ImageAccount:
    """What was found of one image.

    Attributes:
        evidence: Of each cell (P,); adds up to ``output`` minus ``baseline``.
        output: What the model gives the image.
        baseline: What it gives the image with everything removed.
        removed: What is lost when a segment alone is removed (S,).
        kept: What there is above the baseline when it alone is kept (S,).
        sums: Evidence of each segment (S,).
        covariance: Of the segments' evidence (S, S).
    """

    evidence: Tensor
    output: Tensor
    baseline: Tensor
    removed: Tensor
    kept: Tensor
    sums: Tensor
    covariance: Tensor

    @property
    def tells_the_leading(self) -> bool:
        """Whether the segment with the most evidence is told from none and from every other."""
        first = int(self.sums.abs().argmax())
        error = self.covariance[first, first].clamp_min(0).sqrt()
        ties = cannot_be_told(self.sums, self.covariance)[first]
        return bool(self.sums[first].abs() > SURE * error) and not bool(ties.any())


def cannot_be_told(evidence: Tensor, covariance: Tensor) -> Tensor:
    """Return which rows cannot be told from which others (S, S), nine times in ten.

    Args:
        evidence: Of the rows (S,).
        covariance: Of their evidence (S, S).
    """
    variances = covariance.diagonal()
    apart = (variances[:, None] + variances - 2 * covariance).clamp_min(0).sqrt()
    alike = (evidence[:, None] - evidence).abs() <= SURE * apart
    return alike.fill_diagonal_(False)


def image_account(
    removal: Coalitions, question: Question, logits: Tensor, design: Design, allocated: Tensor
) -> ImageAccount:
    """Return the account of an image.

    Before anything is measured its evidence is thought to lie where it is allocated. What the
    removals do to the probability moves it half of the way, and what they do to the logit the
    rest: a logit falls with all others when a picture falls apart, a probability does not, but
    most of them are near 0 or 1 and tell nothing.

    Args:
        removal: What was kept.
        question: What is explained, repeated for each of the coalitions.
        logits: Of each fill and coalition, double (F, M, J); fills are averaged.
        design: What was measured.
        allocated: Its allocated evidence (P,), of any scale.
    """
    values = torch.stack([question.output(of_fill) for of_fill in logits]).mean(0)
    chances = torch.stack([question.probability(of_fill) for of_fill in logits]).mean(0)
    total, chance = values[1] - values[0], chances[1] - chances[0]
    prior = shared_out(total, allocated)
    if chance.abs() >= _TELLING and chance * total > 0:
        likely = shared_out(chance, allocated)
        likely = design.posterior(likely, chances[2:] - chances[0], chance, _CHANCE_NOISES).mean
        prior = (prior + likely * (total / chance)) / 2
    found = design.posterior(prior, values[2:] - values[0], total, _NOISES)
    return ImageAccount(
        found.mean,
        values[1],
        values[0],
        values[1] - values[removal.without],
        values[removal.alone] - values[0],
        removal.segment_sums(found.mean),
        found.covariance(removal.alone - 2),
    )
