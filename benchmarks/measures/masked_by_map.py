"""ADCC: the picture through its own map, how much it keeps, how little it needs, how it repeats."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.measures.formulas.agreement import map_correlation
from benchmarks.measures.formulas.perturbation import logits, perturbed_sample
from benchmarks.quality.measure import Answers, Column, Measure

__all__ = ["MEASURES", "harmonic_mean", "scaled"]


def scaled(maps: Tensor) -> Tensor:
    """Return maps (n, H, W) brought to [0, 1] by their extremes, flat ones to 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1.0)


def harmonic_mean(*values: Tensor) -> Tensor:
    """Return the harmonic mean (n,) of values in [0, 1], 0 where one of them is."""
    stacked = torch.stack(values).double()
    return torch.where((stacked > 0).all(0), len(values) / (1 / stacked).sum(0), 0.0)


def _score(answers: Answers) -> dict[str, Tensor]:
    some = perturbed_sample(answers)
    own = scaled(answers.pixel_maps[: len(some)].float())
    masked = some.inputs * own[:, None]
    other = replace(answers, sample=replace(some, inputs=masked))
    correlation = map_correlation(own, scaled(other.pixel_maps.float())).nan_to_num(0)
    before, after = (
        logits(answers.task, x).double().softmax(1).gather(1, some.targets[:, None])[:, 0]
        for x in (some.inputs, masked)
    )
    drop = (before - after).clamp(min=0) / before
    coherency, complexity = (correlation + 1) / 2, own.double().mean((1, 2))
    return {
        "adcc": harmonic_mean(coherency, 1 - complexity, 1 - drop),
        "drop": drop,
        "coherency": coherency,
        "complexity": complexity,
    }


MEASURES = (
    Measure(
        "adcc",
        "Average drop, coherency, complexity (ADCC)",
        {
            "adcc": Column("ADCC"),
            "drop": Column("average drop", better="low"),
            "coherency": Column("coherency"),
            "complexity": Column("complexity", better="low"),
        },
        _score,
        "The map is brought to [0, 1] and the image multiplied by it, so that what it does not "
        "point at goes to the mean colour (Poppi et al., 2021). *Average drop*: the share of the "
        "explained class's probability that is lost, nothing where it grows; *coherency*: the "
        "correlation r of the map with the map of that image, (1 + r) / 2; *complexity*: the "
        "map's mean; *ADCC*: the harmonic mean of coherency, 1 - complexity and 1 - drop, image "
        "by image. Coherency rewards maps that do not look at the picture, 1 for the Gaussian; "
        "complexity falls with any scaling that sharpens; and the images are out of "
        "distribution. A composite to know a map by, no ground to prefer one.",
    ),
)
