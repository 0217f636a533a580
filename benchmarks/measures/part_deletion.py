"""Do the parts that a map points at matter? Each part is really taken away, the rest is kept."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.measures.formulas.perturbation import target_logits
from benchmarks.measures.formulas.ranks import rank_correlation, spearman, steady
from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.method import UnavailableError
from benchmarks.quality.task import Sample, Task

__all__ = ["MEASURES", "top_hits"]


def top_hits(attribution: Tensor, drops: Tensor, known: Tensor) -> Tensor:
    """Return how surely the part with the largest attribution has the largest drop.

    Args:
        attribution: Float tensor (n, P).
        drops: Falls of the logit (n, P).
        known: Which parts an image has, boolean tensor (n, P).

    Returns:
        Double tensor (n,): 1 or 0, a fraction where parts share the largest attribution, NaN
        where fewer than two parts are there.
    """
    low = -torch.inf
    best, top = (x.masked_fill(~known, low) for x in (drops, attribution))
    is_best = (best == best.amax(1, keepdim=True)) & known
    is_top = (top == top.amax(1, keepdim=True)) & known
    hits = (is_best & is_top).sum(1).double() / is_top.sum(1)
    return hits.masked_fill(known.sum(1) < 2, torch.nan)


@lru_cache(maxsize=2)
def _drops(task: Task, sample: Sample) -> Tensor:
    """Return how far the logit falls without each part (N, P), once for all methods."""
    if sample.without is None:
        raise UnavailableError("the task's images have no parts that can be removed")
    n_parts = sample.without.shape[1]
    targets = sample.targets.repeat_interleave(n_parts)
    without = target_logits(task, sample.without.flatten(0, 1), targets)
    whole = target_logits(task, sample.inputs, sample.targets)
    return whole[:, None] - without.view(-1, n_parts)


def _part_sums(maps: Tensor, parts: Tensor) -> Tensor:
    """Return the sum (n, P) of maps (n, H, W) over parts (n, P, H, W)."""
    return torch.einsum("nhw,nphw->np", maps.double(), parts.double())


def _deletion(answers: Answers) -> dict[str, Tensor]:
    parts = answers.explained.parts
    if parts is None:
        raise UnavailableError("the task's images have no parts that can be removed")
    sums = _part_sums(answers.pixel_maps, parts)
    drops = _drops(answers.task, answers.sample)[: len(parts)]
    areas = parts.flatten(2).sum(2)
    known, worth, means = areas > 0, steady(sums), steady(sums / areas.clamp(min=1))
    return {
        "sum": spearman(worth, drops, known),
        "mean": spearman(means, drops, known),
        "area": spearman(areas, drops, known),
        "top": top_hits(worth, drops, known),
        "pooled": rank_correlation(worth[known], drops[known]),
        "pooled_mean": rank_correlation(means[known], drops[known]),
    }


def _minimal_pairs(answers: Answers) -> dict[str, Tensor]:
    """Subtract the map for the class that differs in one part, and look for that part."""
    some = answers.explained.first(answers.preset.n_perturbed)
    if some.parts is None or some.partners is None or some.labels is None:
        raise UnavailableError("the task has no classes that differ in one part alone")
    own = answers.pixel_maps[: len(some)]
    known = some.parts.flatten(2).any(2)
    hits = []
    for part, targets in enumerate(some.partners.T):
        rival = replace(answers, sample=replace(some, targets=targets))
        sums = steady(_part_sums(own - rival.pixel_maps, some.parts))
        is_part = torch.zeros_like(sums)
        is_part[:, part] = 1
        hits.append(top_hits(sums, is_part, known).masked_fill(~known[:, part], torch.nan))
    scores = torch.stack(hits, 1).nanmean(1)
    return {"hits": scores.masked_fill(some.targets != some.labels, torch.nan)}


MEASURES = (
    Measure(
        "part_deletion",
        "Single-part deletion",
        {
            "sum": Column("within an image, sum", percent=False),
            "mean": Column("within an image, mean", percent=False),
            "area": Column("within an image, area alone", better="", percent=False),
            "top": Column("largest sum is the part that matters most"),
            "pooled": Column("all parts, sum", percent=False),
            "pooled_mean": Column("all parts, mean", percent=False),
        },
        _deletion,
        "The generator draws each image again without one part. The fall of the explained "
        "class's logit is compared with the map over that part by Spearman's rank correlation, "
        "over the parts of an image (the correctness test of FunnyBirds, Hesse et al., 2023) and "
        "over those of all images. The sum over a part is what an additive map says that the "
        "part is worth, but it grows with the part's area, and so may the fall: the third column "
        "is what area alone gets, and a constant map with it. The mean over the part is free of "
        "that. Removing features instead of pixels would prove nothing for this project's maps: "
        "at the layer of eq. 11, leaving out a segment lowers the logit by exactly the segment's "
        "sum.",
    ),
    Measure(
        "minimal_pairs",
        "Minimal pairs of classes",
        {"hits": Column("the part that differs stands out")},
        _minimal_pairs,
        "For each part there is a class that differs from the figure's in this part alone. The "
        "map for that class is subtracted from the map for the figure's own: how often does the "
        "difference have its largest sum in that part? One in three parts is chance, and what a "
        "map gets that does not depend on the class. Figures that the network gets wrong are "
        "left out.",
    ),
)
