"""Does a map stay where the prediction stays? Disturbed pictures, those that change it left out."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.measures.formulas.disturbances import brightened, compressed, noised, turned
from benchmarks.measures.formulas.perturbation import perturbed_sample
from benchmarks.measures.formulas.ranks import spearman
from benchmarks.measures.formulas.similarity import ssim, top_overlap
from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.task import Sample, Task

__all__ = ["MEASURES", "disturbed"]

_DEGREES, _FACTOR, _SIGMA, _QUALITY = 15, 1.5, 0.15, 40
_TOP = 0.05  # of the pixels
_WINDOW = 11 / 224  # of the image's side

_TEXT = """\
Pictures are turned by 15°, made 1.5 times as bright, given Gaussian noise of deviation 0.15 (their
range is [0, 1]), and compressed as JPEG of quality 40. Only those whose predicted class stays the
same are explained and compared; the last column says how many that are. A map of a turned picture
is turned back, and the pixels that were out of sight are left out. *Structure*: SSIM; *order*:
Spearman's rank correlation over pixels; *highest pixels*: Jaccard index of the highest twentieth;
*FASS*: the mean of the three (Feature Attribution Stability Suite, Subramaniakuppusamy & Gajjar,
2026; its top is 100 values of 150,528, its window 11 of 224 pixels, at least 3 here). A smooth or
coarse map is stable by construction, and a map that never looks at the picture most of all: read
every line against the Gaussian, which is stable and knows nothing, and the random map, which is
neither."""


def disturbed(pictures: Tensor) -> dict[str, Tensor]:
    """Return pictures (n, C, H, W) in [0, 1], disturbed in four ways."""
    return {
        "turned": turned(pictures, _DEGREES),
        "bright": brightened(pictures, _FACTOR),
        "noisy": noised(pictures, _SIGMA, seed=0),
        "jpeg": compressed(pictures, _QUALITY),
    }


@lru_cache(maxsize=4)
def _kept(task: Task, sample: Sample, count: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the disturbed images (n, C, H, W), and which keep their prediction (n,)."""
    mean, std = (torch.tensor(x).view(1, -1, 1, 1) for x in (task.mean, task.std))
    found = {}
    for name, pictures in disturbed(task.pictures(sample.inputs[:count])).items():
        images = (pictures - mean) / std
        found[name] = images, task.predicted(images) == sample.targets[:count]
    return found


def _score(answers: Answers) -> dict[str, Tensor]:
    count = len(perturbed_sample(answers))
    before = answers.pixel_maps[:count].float()
    columns: dict[str, list[Tensor]] = {"structure": [], "order": [], "top": []}
    kept = _kept(answers.task, answers.sample, count)
    for name, (images, stays) in kept.items():
        for key, values in _alike(answers, before, images, stays, name == "turned").items():
            columns[key].append(values)
    means = {key: torch.stack(values).nanmean(0) for key, values in columns.items()}
    shares = torch.stack([stays for _, stays in kept.values()]).double().mean(0)
    return {"fass": torch.stack(list(means.values())).mean(0)} | means | {"kept": shares}


def _alike(
    answers: Answers, before: Tensor, images: Tensor, stays: Tensor, is_turned: bool
) -> dict[str, Tensor]:
    """Return how alike the maps (n, H, W) stay, NaN where the prediction does not."""
    found = {key: torch.full((len(stays),), torch.nan).double() for key in _ALIKE}
    if not stays.any():
        return found
    some = Sample(images[stays], answers.sample.targets[: len(stays)][stays])
    other = replace(answers, sample=some)
    maps = other.to_pixels(other.ask(other.method.maps)).float()
    known = torch.ones_like(maps, dtype=torch.bool)
    if is_turned:
        seen = turned(turned(torch.ones_like(maps)[:, None], _DEGREES), -_DEGREES)
        maps, known = turned(maps[:, None], -_DEGREES)[:, 0], seen[:, 0] > 1 - 1e-3
    for key, alike in _ALIKE.items():
        found[key][stays] = alike(before[stays], maps, known)
    return found


def _structure(one: Tensor, other: Tensor, known: Tensor) -> Tensor:
    side = max(3, round(_WINDOW * one.shape[2]))
    return ssim(one, other, known, side + (side + 1) % 2)


def _order(one: Tensor, other: Tensor, known: Tensor) -> Tensor:
    return spearman(one.flatten(1), other.flatten(1), known.flatten(1))


def _top(one: Tensor, other: Tensor, known: Tensor) -> Tensor:
    return top_overlap(one, other, known, _TOP)


_ALIKE = {"structure": _structure, "order": _order, "top": _top}
MEASURES = (
    Measure(
        "kept_stability",
        "Stability where the prediction stays",
        {
            "fass": Column("FASS", percent=False),
            "structure": Column("structure", percent=False),
            "order": Column("order", percent=False),
            "top": Column("highest pixels", percent=False),
            "kept": Column("pictures whose prediction stays", better=""),
        },
        _score,
        _TEXT,
    ),
)
