"""Do segments and maps have the outlines of the parts?"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.measures.localisation import segment_ious
from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.method import UnavailableError

__all__ = ["MEASURES", "best_threshold_iou", "part_ious"]


def part_ious(segments: Tensor, parts: Tensor) -> Tensor:
    """Return each part's best IoU with any one segment (n, P), NaN where it is not there.

    Args:
        segments: Index tensor (n, H, W).
        parts: Boolean tensor (n, P, H, W).
    """
    blank = torch.zeros(segments.shape)
    best = [segment_ious(segments, blank, part)[0] for part in parts.unbind(1)]
    return torch.stack(best, 1).masked_fill(~parts.flatten(2).any(2), torch.nan)


def best_threshold_iou(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the greatest IoU (n,) of a mask with the pixels that reach a value, over all values.

    Args:
        maps: Float tensor (n, H, W); pixels that are equal come and go together.
        masks: Boolean tensor (n, H, W), none of them empty.
    """
    flat, inside = maps.flatten(1), masks.flatten(1)
    values, order = flat.sort(1, descending=True)
    shared = inside.gather(1, order).cumsum(1).double()
    taken = torch.arange(1, flat.shape[1] + 1)
    ious = shared / (taken + inside.sum(1, keepdim=True) - shared)
    slack = 1e-6 * flat.abs().amax(1, keepdim=True)  # resizing leaves rounding in flat maps
    is_last = torch.ones_like(inside)
    is_last[:, :-1] = values[:, :-1] > values[:, 1:] + slack
    return ious.masked_fill(~is_last, 0).amax(1)


def _score(answers: Answers) -> dict[str, Tensor]:
    parts = answers.explained.parts
    if parts is None:
        raise UnavailableError("the task has no parts")
    union = parts.any(1)
    scores = {"map": best_threshold_iou(answers.pixel_maps, union)}
    scores["chance"] = union.double().mean((1, 2))
    try:
        segments = answers.pixel_segments
    except UnavailableError:
        return scores
    return {"segments": part_ious(segments, parts).nanmean(1)} | scores


MEASURES = (
    Measure(
        "part_overlap",
        "Outlines of parts",
        {
            "segments": Column("IoU of a part and its best segment"),
            "map": Column("IoU of all parts and the map at its best threshold"),
            "chance": Column("parts' share of the area", better=""),
        },
        _score,
        "The masks of beak, wing and tail are exact. *Segments*: each part's IoU with the one "
        "segment that fits it best, averaged over an image's parts; no relevance is looked at. "
        "More segments fit better, up to the size of a part: compare with superpixels and with "
        "permuted segments. *Map*: the pixels above a threshold against the three parts together, "
        "at the threshold that is best for that image; a flat map scores the parts' share of the "
        "area.",
    ),
)
