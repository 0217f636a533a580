"""Whether a map lies on the object, and on the parts that make its class."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.method import UnavailableError

__all__ = ["MEASURES", "localise", "pointing", "relevance_mass", "relevance_rank", "segment_ious"]


def pointing(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the share of each map's highest pixels that lies inside its mask (N,).

    Args:
        maps: Float tensor (N, H, W).
        masks: Boolean tensor (N, H, W).

    Reference:
        Zhang et al., "Top-down neural attention by Excitation Backprop" (2016), with all pixels
        of the maximum in place of any one: a map that is flat there gains nothing by the order
        in which its pixels are read.
    """
    flat = maps.flatten(1)
    highest = flat >= flat.amax(1, keepdim=True) - _slack(flat)
    return (highest & masks.flatten(1)).sum(1).double() / highest.sum(1)


def relevance_mass(maps: Tensor, masks: Tensor, within: Tensor | None = None) -> Tensor:
    """Return the share of the positive relevance inside the masks (N,).

    Args:
        maps: Float tensor (N, H, W).
        masks: Boolean tensor (N, H, W).
        within: Count the relevance inside these masks alone.

    Returns:
        Float tensor (N,), NaN where no relevance is positive.

    Reference:
        Arras et al., "CLEVR-XAI" (2022).
    """
    positive = maps.double().clamp_min(0).flatten(1)
    if within is not None:
        positive = positive * within.flatten(1)
    return (positive * masks.flatten(1)).sum(1) / positive.sum(1)


def relevance_rank(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the share of the ``|mask|`` highest pixels that lies inside the mask (N,).

    Of pixels that tie at the last place, each counts as much as it would on average if they were
    drawn at random.

    Args:
        maps: Float tensor (N, H, W).
        masks: Boolean tensor (N, H, W), none of them empty.

    Reference:
        Arras et al., "CLEVR-XAI" (2022).
    """
    flat, inside = maps.flatten(1), masks.flatten(1)
    sizes = inside.sum(1, keepdim=True)
    last = flat.sort(1, descending=True).values.gather(1, sizes - 1)
    slack = _slack(flat)
    above, tied = flat > last + slack, (flat - last).abs() <= slack
    room = (sizes - above.sum(1, keepdim=True)).double() / tied.sum(1, keepdim=True)
    hits = (above & inside).sum(1) + room[:, 0] * (tied & inside).sum(1)
    return hits / sizes[:, 0]


def segment_ious(segments: Tensor, maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best IoU of any one segment, and that of the most relevant segment (N,) each.

    Args:
        segments: Index tensor (N, H, W).
        maps: Float tensor (N, H, W); a segment's relevance is its mean.
        masks: Boolean tensor (N, H, W).
    """
    best, foremost = [], []
    for labels, values, mask in zip(
        segments.flatten(1), maps.flatten(1).double(), masks.flatten(1), strict=True
    ):
        _, places = labels.unique(return_inverse=True)
        areas = places.bincount().double()
        common = places.bincount(mask.double())
        ious = common / (areas + mask.sum() - common)
        best.append(ious.max())
        foremost.append(ious[(places.bincount(values) / areas).argmax()])
    return torch.stack(best), torch.stack(foremost)


def localise(maps: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Return pointing, rank and mass (N,) of maps at the masks' size."""
    return {
        "pointing": pointing(maps, masks),
        "rank": relevance_rank(maps, masks),
        "mass": relevance_mass(maps, masks),
    }


def _slack(flat: Tensor) -> Tensor:
    """Return what counts as a tie (N, 1): averaging and resizing leave rounding in flat maps."""
    return 1e-6 * flat.abs().amax(1, keepdim=True)


def _score(answers: Answers) -> dict[str, Tensor]:
    """Score maps against object masks: one value an image."""
    sample = answers.explained
    if sample.masks is None:
        raise UnavailableError("the task has no masks but such as this method made")
    scores = localise(answers.pixel_maps, sample.masks)
    scores["chance"] = sample.masks.double().mean((1, 2))
    try:
        segments = answers.pixel_segments
    except UnavailableError:
        return scores
    best, foremost = segment_ious(segments, answers.pixel_maps, sample.masks)
    return scores | {"best_iou": best, "top_iou": foremost}


def _score_parts(answers: Answers) -> dict[str, Tensor]:
    """Score maps against the parts that make the class: one value an image."""
    sample = answers.explained
    if sample.parts is None or sample.masks is None:
        raise UnavailableError("the task has no parts")
    parts, maps = sample.parts.any(1), answers.pixel_maps
    return {
        "pointing": pointing(maps, parts),
        "chance": parts.double().mean((1, 2)),
        "mass": relevance_mass(maps, parts, sample.masks),
        "area": (parts & sample.masks).sum((1, 2)).double() / sample.masks.sum((1, 2)),
    }


MEASURES = (
    Measure(
        "localisation",
        "Localisation of the object",
        {
            "pointing": Column("pointing game"),
            "rank": Column("relevance rank"),
            "mass": Column("relevance mass"),
            "best_iou": Column("IoU of the best segment"),
            "top_iou": Column("IoU of the most relevant segment"),
            "chance": Column("object's share of the area", better=""),
        },
        _score,
        "Pointing game (Zhang et al., 2016): whether the highest pixel lies on the object; of "
        "several, the share that does. Relevance rank: the share of the *m* highest pixels that "
        "lies on an object of *m* pixels; relevance mass: the share of the positive relevance "
        "(Arras et al., 2022). A map that knows nothing scores the object's share of the area, "
        "the last column, in all three. The IoU of the best segment looks at no relevance and "
        "depends on how many segments there are: compare it with a random partition of as many.",
    ),
    Measure(
        "part_localisation",
        "Localisation of the parts that make the class",
        {
            "pointing": Column("pointing game"),
            "chance": Column("its chance", better=""),
            "mass": Column("relevance mass inside the figure"),
            "area": Column("its chance", better=""),
        },
        _score_parts,
        "As before, against the union of the parts by which the classes differ. The mass is the "
        "share of the figure's positive relevance that lies on them; their share of the figure's "
        "area is what a map scores that is even over the figure.",
    ),
)
