"""What noise in the picture changes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.measures.formulas.agreement import map_correlation, rand_index
from benchmarks.measures.formulas.columns import fill
from benchmarks.measures.formulas.labels import part_centres
from benchmarks.measures.formulas.places import find_places
from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.method import UnavailableError
from benchmarks.quality.task import Task

__all__ = ["MEASURES", "noisy", "unchanged_hits"]

_SIGMA, _LIMIT = 0.2, 0.25

_TEXT = """\
Gaussian noise of standard deviation 0.2, clipped to ±0.25, is added to the pictures, whose range
is [0, 1] (Huang et al., 2023); the explained class stays. *Segments*: adjusted Rand index of the
segments with and without noise (1 is equal, 0 is chance). *Maps*: Pearson correlation of the maps.
*Hit parts*: share of concepts whose set of hit parts (see part consistency) stays the same."""


def noisy(task: Task, inputs: Tensor, seed: int) -> Tensor:
    """Return standardised images (n, C, H, W) with clipped noise in their pictures."""
    pictures = task.pictures(inputs)
    noise = torch.empty_like(pictures).normal_(generator=torch.Generator().manual_seed(seed))
    spoiled = (pictures + (_SIGMA * noise).clamp(-_LIMIT, _LIMIT)).clamp(0, 1)
    mean, std = (torch.tensor(x).view(1, -1, 1, 1) for x in (task.mean, task.std))
    return (spoiled - mean) / std


def unchanged_hits(before: Tensor, after: Tensor, counted: Tensor, kept: Tensor) -> Tensor:
    """Return each image's share of concepts that hit what they hit before (n,).

    Args:
        before: Hit parts, boolean tensor (n, K, P).
        after: Those under noise.
        counted: Concepts of each image, boolean tensor (n, K).
        kept: Those under noise; one that is gone has changed.
    """
    same = (before == after).all(2) & kept & counted
    return same.sum(1) / counted.sum(1)


def _score(answers: Answers) -> dict[str, Tensor]:
    spoiled = noisy(answers.task, answers.sample.inputs, answers.seed)
    other = replace(answers, sample=replace(answers.sample, inputs=spoiled))
    return fill(
        {"segments": _segments, "hits": _hits, "maps": _maps},
        answers,
        other,
        reason="gives neither segments nor concepts that images share",
    )


def _segments(answers: Answers, other: Answers) -> Tensor:
    return rand_index(answers.segments, other.segments)


def _maps(answers: Answers, other: Answers) -> Tensor:
    _ = answers.segments  # maps alone are no concepts, and costly ones would be made twice
    return map_correlation(answers.maps, other.maps)


def _hits(answers: Answers, other: Answers) -> Tensor:
    parts = answers.explained.parts
    if parts is None:
        raise UnavailableError("the task has no parts to hit")
    before, after, centres = find_places(answers), find_places(other), part_centres(parts)
    count = min(before.centres.shape[1], after.centres.shape[1])
    return unchanged_hits(
        before.hits(centres)[:, :count],
        after.hits(centres)[:, :count],
        before.present[:, :count],
        after.present[:, :count],
    )


MEASURES = (
    Measure(
        "stability",
        "Stability under noise",
        {
            "segments": Column("segments (ARI)", percent=False),
            "hits": Column("hit parts unchanged"),
            "maps": Column("maps (correlation)", percent=False),
        },
        _score,
        _TEXT,
    ),
)
