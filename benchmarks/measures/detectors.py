"""How well a concept detects a known part, beside the best unit and the best mixture of units."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from benchmarks.measures.formulas.set_overlap import held_out, overlaps, united
from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.method import UnavailableError

__all__ = ["MEASURES"]

# of the pixels: the first is Network Dissection's, the last keeps all that is above 0
_SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 1.0)
_DETECTS = 0.04  # Bau et al. (2017)


def _score(answers: Answers) -> dict[str, Tensor]:
    """Score the parts: one value for each."""
    parts = answers.explained.parts
    if parts is None:
        raise UnavailableError("the task has no part masks")
    maps = _concept_maps(answers)
    table = overlaps(maps, parts, _SHARES)
    best = held_out(table)
    return {
        "iou": best,
        "united": united(maps, parts, _SHARES, table),
        "fixed": held_out(table[:, :, :1]),
        "detected": torch.where(best.isnan(), torch.nan, (best > _DETECTS).double()),
        "concepts": torch.tensor(float(maps.shape[1])),
    }


def _concept_maps(answers: Answers) -> Tensor:
    """Return concept maps (n, K, h, w), or segments that are shared, as such maps."""
    try:
        return answers.concepts.maps
    except UnavailableError as error:
        if not answers.method.shares_concepts:
            raise UnavailableError("has no concepts that images share") from error
    segments = answers.pixel_segments
    _, numbers = segments.unique(return_inverse=True)
    return one_hot(numbers).permute(0, 3, 1, 2).float()


MEASURES = (
    Measure(
        "detectors",
        "Concepts as detectors of known parts",
        {
            "iou": Column("set IoU"),
            "united": Column("set IoU of a union"),
            "fixed": Column("set IoU, threshold of Network Dissection"),
            "detected": Column("parts with IoU above .04"),
            "concepts": Column("concepts", better="", percent=False),
        },
        _score,
        "For each part the concept with the best IoU over one half of the images is scored on "
        "the other half, all images together (Bau et al., 2017; Fong & Vedaldi, 2018). A map that "
        "is not 0 or 1 is cut where it exceeds its value at the top .5 % of the pixels, as in "
        "Network Dissection, or, in the first column, at the best of .5, 1, 2, 5, 10 and 20 % or "
        "0, chosen with the concept. Segments need no threshold. Where "
        "prototypes belong to classes that share a part, each can find its classes' alone; so a "
        "union of concepts, grown on the first half, is scored too. The values are by part, not by "
        "image. Net2Vec has also seen the part masks of other images. More concepts are more "
        "chances: compare methods with their number in mind.",
    ),
)
