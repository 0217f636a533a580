"""Does the network rely on the pixels that a map points at? Deletion, insertion and ROAD."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from benchmarks.measures.formulas.perturbation import (
    logits,
    n_perturbed,
    n_steps,
    perturbed_sample,
    ranks,
)
from benchmarks.measures.formulas.road import impute
from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.task import Sample, Task

__all__ = ["MEASURES", "area", "blurred", "curve", "road_hits"]

_BLUR = 0.1  # standard deviation of the blur, in sides of the image
_NOISE = 0.1  # standard deviation of ROAD's noise, in standard deviations of the channels


class _Ends(NamedTuple):
    """Where the curves begin and end, the same for all methods."""

    blurred: Tensor  # (n, C, H, W)
    whole: Tensor  # probabilities (n,) of the image,
    blank: Tensor  # of one in the mean colour,
    soft: Tensor  # and of the blurred one


def blurred(images: Tensor) -> Tensor:
    """Return images (N, C, H, W) blurred by a Gaussian a tenth of their side wide."""
    widths = [_BLUR * size for size in images.shape[2:]]
    return torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, *widths)))


def area(values: Tensor) -> Tensor:
    """Return the area (n,) under curves (n, S + 1) over an axis from 0 to 1, trapezoids."""
    return torch.trapezoid(values, dx=1 / (values.shape[1] - 1), dim=1)


def curve(
    task: Task, start: Tensor, end: Tensor, places: Tensor, targets: Tensor, steps: int
) -> Tensor:
    """Return the targets' probability while pixels of one image become those of another.

    Args:
        task: The task.
        start: Images before, (n, C, H, W).
        end: Images after.
        places: Place of each pixel in the order of change, (n, H, W).
        targets: Explained classes (n,).
        steps: Number of steps S, each of as many pixels.

    Returns:
        Probabilities (n, S - 1) after each step but the last.
    """
    n_pixels = places[0].numel()
    found = []
    for step in range(1, steps):
        changed = (places < round(n_pixels * step / steps))[:, None]
        found.append(_probability(task, torch.where(changed, end, start), targets))
    return torch.stack(found, 1)


def road_hits(
    task: Task, images: Tensor, places: Tensor, targets: Tensor, shares: Sequence[float]
) -> Tensor:
    """Return whether the targets are still predicted once the first pixels are imputed.

    Args:
        task: The task.
        images: Images (n, C, H, W).
        places: Place of each pixel in the order of removal, (n, H, W).
        targets: Explained classes (n,).
        shares: Share of the pixels to remove, S numbers in [0, 1).

    Returns:
        1 or 0, double tensor (n, S). The noise does not depend on the order.
    """
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * _NOISE
    hits = []
    for share in shares:
        removed = places < round(places[0].numel() * share)
        filled = torch.stack([impute(x, r) for x, r in zip(images, removed, strict=True)])
        noisy = filled + noise * removed[:, None]
        hits.append(logits(task, noisy).argmax(1) == targets)
    return torch.stack(hits, 1).double()


def _probability(task: Task, images: Tensor, targets: Tensor) -> Tensor:
    return logits(task, images).double().softmax(1).gather(1, targets[:, None])[:, 0]


@lru_cache(maxsize=2)
def _ends(task: Task, sample: Sample, count: int) -> _Ends:
    """Return what all methods share, worked out once for a task's images."""
    some = sample.first(count)
    images = (some.inputs, torch.zeros_like(some.inputs), blurred(some.inputs))
    return _Ends(images[2], *(_probability(task, x, some.targets) for x in images))


def _deletion(answers: Answers) -> dict[str, Tensor]:
    task, some, steps = answers.task, perturbed_sample(answers), n_steps(answers)
    x, targets = some.inputs, some.targets
    ends = _Ends(*(e[: len(x)] for e in _ends(task, answers.sample, n_perturbed(answers))))
    first = ranks(answers.pixel_maps[: len(x)])
    last = first[0].numel() - 1 - first

    def along(start: Tensor, end: Tensor, places: Tensor, before: Tensor, after: Tensor) -> Tensor:
        inner = curve(task, start, end, places, targets, steps)
        return area(torch.cat([before[:, None], inner, after[:, None]], 1))

    blank = torch.zeros_like(x)
    deletion = along(x, blank, first, ends.whole, ends.blank)
    return {
        "deletion": deletion,
        "insertion": along(ends.blurred, x, first, ends.soft, ends.whole),
        "between": along(x, blank, last, ends.whole, ends.blank) - deletion,
    }


def _road(answers: Answers) -> dict[str, Tensor]:
    some, steps = perturbed_sample(answers), n_steps(answers)
    n_shares = 9 if steps >= 12 else 5 if steps >= 8 else 3
    shares = torch.linspace(0.1, 0.9, n_shares).tolist()
    first = ranks(answers.pixel_maps[: len(some)])
    last = first[0].numel() - 1 - first
    morf, lerf = (
        road_hits(answers.task, some.inputs, places, some.targets, shares).mean(1)
        for places in (first, last)
    )
    return {"morf": morf, "lerf": lerf, "gap": lerf - morf}


MEASURES = (
    Measure(
        "deletion",
        "Deletion and insertion of pixels",
        {
            "deletion": Column("deletion", better="low"),
            "insertion": Column("insertion"),
            "between": Column("between the two orders of deletion (SRG)"),
        },
        _deletion,
        "Area under the explained class's probability (Petsiuk et al., 2018) while pixels take "
        "the mean colour, most relevant first, or while those of a blurred image are restored "
        f"(Gaussian, {_BLUR:g} of the image's side wide). The third column is the area between "
        "the curves that delete the least and the most relevant pixels first, the symmetric "
        "relevance gain (Blücher et al., 2024), from which much of what a network makes of unseen "
        "images cancels; a random order gives 0. Equal pixels come in random order, the same for "
        "all methods.",
    ),
    Measure(
        "road",
        "ROAD",
        {
            "morf": Column("most relevant removed first", better="low"),
            "lerf": Column("least relevant removed first"),
            "gap": Column("difference"),
        },
        _road,
        "Share of images that keep their predicted class once 10 to 90 % of the pixels are "
        "removed and filled in from those left by noisy linear imputation (Rong et al., 2022; "
        f"noise of {_NOISE:g} standard deviations), mean over the percentages. A random order "
        "gives a difference of 0.",
    ),
)
