"""ADCC and ARCC: how much a map keeps, how little it needs, and how it repeats, in one number."""

from __future__ import annotations

from dataclasses import replace

import torch
from pytorch_grad_cam.metrics.road import ROADCombined
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from torch import Tensor

from benchmarks.measures.formulas.agreement import map_correlation
from benchmarks.measures.formulas.perturbation import logits, perturbed_sample
from benchmarks.measures.formulas.similarity import scaled
from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.task import Sample, Task

__all__ = ["MEASURES", "harmonic_mean"]

_PERCENTILES = [20, 40, 60, 80]  # those of the package's ARCC


def harmonic_mean(*values: Tensor) -> Tensor:
    """Return the harmonic mean (n,) of values in [0, 1], 0 where one of them is."""
    stacked = torch.stack(values).double()
    return torch.where((stacked > 0).all(0), len(values) / (1 / stacked).sum(0), 0.0)


def _score(answers: Answers) -> dict[str, Tensor]:
    some = perturbed_sample(answers)
    own = scaled(answers.pixel_maps[: len(some)]).float()
    masked = some.inputs * own[:, None]
    other = replace(answers, sample=replace(some, inputs=masked))
    correlation = map_correlation(own, scaled(other.pixel_maps).float()).nan_to_num(0)
    before, after = (
        logits(answers.task, x).double().softmax(1).gather(1, some.targets[:, None])[:, 0]
        for x in (some.inputs, masked)
    )
    drop = (before - after).clamp(min=0) / before
    coherency, complexity = (correlation + 1) / 2, own.double().mean((1, 2))
    kept = _road(answers.task, some, own)
    return {
        "adcc": harmonic_mean(coherency, 1 - complexity, 1 - drop),
        "arcc": harmonic_mean(coherency, 1 - complexity, kept),
        "drop": drop,
        "road": kept,
        "coherency": coherency,
        "complexity": complexity,
    }


def _road(task: Task, sample: Sample, maps: Tensor) -> Tensor:
    """Return the probability with the least relevant pixels imputed less that with the most (n,).

    Negative differences count as 0. The package's imputation has noise, the same for all methods.
    """
    targets = [ClassifierOutputSoftmaxTarget(int(t)) for t in sample.targets]
    torch.manual_seed(0)
    found = ROADCombined(_PERCENTILES)(sample.inputs, maps.numpy(), targets, task.model)
    return torch.from_numpy(2 * found).double().clamp(0, 1)


MEASURES = (
    Measure(
        "adcc",
        "Average drop or ROAD with coherency and complexity (ADCC, ARCC)",
        {
            "adcc": Column("ADCC"),
            "arcc": Column("ARCC"),
            "drop": Column("average drop", better="low"),
            "road": Column("ROAD"),
            "coherency": Column("coherency"),
            "complexity": Column("complexity", better="low"),
        },
        _score,
        "The map is brought to [0, 1] and the image multiplied by it, so that what it does not "
        "point at goes to the mean colour (Poppi et al., 2021). *Average drop*: the share of the "
        "explained class's probability that is lost, nothing where it grows; *coherency*: the "
        "correlation r of the map with the map of that image, (1 + r) / 2; *complexity*: the "
        "map's mean; *ADCC*: the harmonic mean of coherency, 1 - complexity and 1 - drop, image "
        "by image. *ARCC* (pytorch-grad-cam's, arXiv:2605.14641) has *ROAD* in place of the drop: "
        "the class's probability when the least relevant 80, 60, 40 or 20 % of the pixels are "
        "imputed, less that when the most relevant are, on average. Coherency rewards maps that do "
        "not look at the picture, 1 for the Gaussian; complexity falls with any scaling that "
        "sharpens; and the images are out of distribution. Composites to know a map by, no ground "
        "to prefer one.",
    ),
)
