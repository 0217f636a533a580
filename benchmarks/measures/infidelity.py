"""Does a map foretell how much the logit falls? Infidelity and MuFidelity."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.measures.formulas.perturbation import (
    n_perturbed,
    n_steps,
    perturbed_sample,
    target_logits,
)
from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.task import Sample, Task

__all__ = ["MEASURES", "correlation", "noise", "squares", "unexplained"]

_NOISE = 0.2  # standard deviation, in standard deviations of the channels
_SIDES = (1 / 8, 1 / 4)  # of the removed squares, in sides of the image


def noise(count: int, size: tuple[int, int], seed: int) -> Tensor:
    """Return Gaussian noise (count, H, W)."""
    return torch.randn((count, *size), generator=torch.Generator().manual_seed(seed)) * _NOISE


def squares(count: int, size: tuple[int, int], side: float, seed: int) -> Tensor:
    """Return masks (count, H, W), 1 inside a random square and 0 elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    inside = []
    for length in size:
        width = max(1, round(side * length))
        start = torch.randint(length - width + 1, (count, 1), generator=generator)
        place = torch.arange(length)
        inside.append((place >= start) & (place < start + width))
    rows, columns = inside
    return (rows[:, :, None] & columns[:, None, :]).float()


def unexplained(foretold: Tensor, drops: Tensor) -> Tensor:
    """Return the share of the squared drops that a map does not explain, at its best scale.

    This is infidelity with the optimal scale, E[(b I·A - drop)²] with
    b = E[I·A drop] / E[(I·A)²], divided by E[drop²].

    Args:
        foretold: Sums I·A of the map over each perturbation, (n, m).
        drops: True falls of the logit (n, m).

    Returns:
        Shares (n,) in [0, 1]; 1 where the map foretells nothing, NaN where the logit never moves.

    Reference:
        Yeh et al. (2019), definition 2.1 and section 4 (optimal scaling).
    """
    products, squared = (foretold * drops).sum(1), foretold.square().sum(1)
    explained = products.square() / squared.clamp(min=torch.finfo(squared.dtype).tiny)
    return 1 - explained / drops.square().sum(1)


def correlation(foretold: Tensor, drops: Tensor) -> Tensor:
    """Return Pearson's correlation (n,) of rows of two (n, m) tensors; 0 for a constant sum."""
    a, b = (x - x.mean(1, keepdim=True) for x in (foretold, drops))
    scale = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return (a * b).sum(1) / scale.clamp(min=torch.finfo(scale.dtype).tiny)


def _draws(size: tuple[int, int], count: int, image: int) -> list[Tensor]:
    """Return what is done to one image: noise, then squares of each side, (m, H, W) each."""
    holes = [squares(count // 2, size, side, image) for side in _SIDES]
    return [noise(count, size, image), *holes]


def _changed(image: Tensor, draws: list[Tensor]) -> list[Tensor]:
    """Return an image less the noise, and with its squares in the mean colour."""
    holes = [image * (1 - draw[:, None]) for draw in draws[1:]]
    return [image - draws[0][:, None], *holes]


@lru_cache(maxsize=2)
def _drops(task: Task, sample: Sample, n_images: int, count: int) -> list[Tensor]:
    """Return the logit's falls (n, m) under each kind of change, once for all methods."""
    some = sample.first(n_images)
    size = (some.inputs.shape[2], some.inputs.shape[3])
    whole = target_logits(task, some.inputs, some.targets)
    rows = []
    for number, (x, target) in enumerate(zip(some.inputs, some.targets, strict=True)):
        kinds = _changed(x, _draws(size, count, number))
        rows.append([whole[number] - target_logits(task, k, target.expand(len(k))) for k in kinds])
    return [torch.stack(kind) for kind in zip(*rows, strict=True)]


def _score(answers: Answers) -> dict[str, Tensor]:
    n_images, count = n_perturbed(answers), 8 * n_steps(answers)
    maps = answers.pixel_maps[: len(perturbed_sample(answers))].double()
    size = (maps.shape[1], maps.shape[2])
    rows = [
        [torch.einsum("mhw,hw->m", draw.double(), one) for draw in _draws(size, count, number)]
        for number, one in enumerate(maps)
    ]
    foretold = [torch.stack(kind) for kind in zip(*rows, strict=True)]
    drops = [d[: len(maps)] for d in _drops(answers.task, answers.sample, n_images, count)]
    pairs = list(zip(foretold, drops, strict=True))
    shares = [unexplained(*pair) for pair in pairs]
    return {
        "noise": shares[0],
        "squares": torch.stack(shares[1:]).mean(0),
        "mufidelity": torch.stack([correlation(*pair) for pair in pairs[1:]]).mean(0),
    }


MEASURES = (
    Measure(
        "infidelity",
        "Infidelity",
        {
            "noise": Column("infidelity, noise", better="low"),
            "squares": Column("infidelity, squares", better="low"),
            "mufidelity": Column("correlation, squares", percent=False),
        },
        _score,
        "Share of the logit's squared fall that the map's sum over a perturbation leaves "
        "unexplained at the best scale (Yeh et al., 2019, with optimal scaling: methods have "
        "different units), under small Gaussian noise, the same in all channels, and with a "
        "random square, an eighth or a quarter of the image wide, in the mean colour. The scale "
        "may be negative; the last column is Pearson's correlation of the two over the squares "
        "of one size (MuFidelity of Bhatt et al., 2020, with squares as subsets), which shows "
        "the sign. Noise suits maps of sensitivity, squares those of contributions.",
    ),
)
