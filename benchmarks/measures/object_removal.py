"""Does a map know which things in the picture matter? Each is really taken away."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.measures.formulas.perturbation import logits, target_logits
from benchmarks.measures.localisation import relevance_mass
from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.method import UnavailableError
from benchmarks.quality.task import Sample, Task

__all__ = ["MEASURES", "above", "foremost", "object_falls"]

_LITTLE = 0.05  # of the logit: what falls less does not matter (Hesse et al., 2023)


@lru_cache(maxsize=2)
def object_falls(task: Task, sample: Sample) -> Tensor:
    """Return the share of the logit (N, Q) that is lost without each thing, for all methods."""
    if sample.redraw is None or sample.objects is None:
        raise UnavailableError("the task's images cannot be drawn without their parts")
    whole = target_logits(task, sample.inputs, sample.targets)
    falls = []
    for one in torch.eye(sample.objects.shape[1], dtype=torch.bool):
        less = sample.redraw(one.expand(len(sample), -1))
        falls.append(whole - target_logits(task, less, sample.targets))
    return torch.stack(falls, 1) / whole.abs()[:, None]


def above(values: Tensor, is_one: Tensor, is_other: Tensor) -> Tensor:
    """Return how often the value of one kind is above that of the other kind (n,), ties a half.

    Args:
        values: Float tensor (n, Q).
        is_one: Boolean tensor (n, Q).
        is_other: Boolean tensor (n, Q).

    Returns:
        Double tensor (n,), the area under the ROC curve; NaN where a kind is missing.
    """
    pairs = (is_one[:, :, None] & is_other[:, None]).double()
    differences = values[:, :, None] - values[:, None]
    wins = (differences > 0).double() + (differences == 0) / 2
    return (wins * pairs).sum((1, 2)) / pairs.sum((1, 2))


def foremost(values: Tensor, known: Tensor, count: int) -> Tensor:
    """Return which entries (n, Q) are the largest, so many of each row; of ties, the first.

    Args:
        values: Float tensor (n, Q).
        known: Which entries may be chosen, boolean tensor (n, Q).
        count: How many, at most.
    """
    order = values.masked_fill(~known, -torch.inf).argsort(dim=1, descending=True, stable=True)
    chosen = torch.zeros_like(known).scatter(1, order[:, :count], value=True)
    return chosen & known


def _sums(maps: Tensor, objects: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return sums (n, Q) of maps without their last digits, and an order by chance for ties."""
    sums = torch.einsum("nhw,nqhw->nq", maps.double(), objects.double())
    scale = sums.abs().amax(1, keepdim=True).clamp(min=torch.finfo(sums.dtype).tiny)
    order = torch.rand(sums.shape[1], generator=generator).argsort()
    return (sums / scale).round(decimals=6), order


def _score(answers: Answers) -> dict[str, Tensor]:
    task, sample = answers.task, answers.explained
    if sample.objects is None or sample.masks is None or sample.parts is None:
        raise UnavailableError("the task's images cannot be drawn without their parts")
    falls = object_falls(task, answers.sample)[: len(sample)]
    n_parts, known = sample.parts.shape[1], sample.objects.flatten(2).any(2)
    is_part = (torch.arange(known.shape[1]) < n_parts).expand_as(known)
    is_behind = known & ~(sample.objects & sample.masks[:, None]).flatten(2).any(2)
    matters, is_idle = known & (falls >= _LITTLE), known & (falls < _LITTLE)
    dice = torch.Generator().manual_seed(answers.seed)
    sums, order = _sums(answers.pixel_maps, sample.objects, dice)
    chosen = torch.zeros_like(known)
    chosen[:, order] = foremost(sums[:, order], known[:, order], n_parts)
    areas = sample.objects.flatten(2).sum(2)
    idle, every = (_union(sample.objects, which) for which in (is_idle, known))
    return {
        "controlled": (chosen & is_part).sum(1).double() / n_parts,
        "deletion": (_classes(task, sample, chosen) != sample.targets).double(),
        "preservation": (_classes(task, sample, known & ~chosen) == sample.targets).double(),
        "ranked": above(sums, matters, is_idle),
        "by_area": above(areas, matters, is_idle),
        "distracted": relevance_mass(answers.pixel_maps, idle, every),
        "area": idle.sum((1, 2)).double() / every.sum((1, 2)),
        "background": _share(is_idle, is_behind),
    }


def _union(objects: Tensor, which: Tensor) -> Tensor:
    """Return the pixels (n, H, W) of the things (n, Q, H, W) that are asked for (n, Q)."""
    return (objects & which[:, :, None, None]).any(1)


def _share(found: Tensor, asked: Tensor) -> Tensor:
    return (found & asked).sum(1).double() / asked.sum(1)


def _classes(task: Task, sample: Sample, gone: Tensor) -> Tensor:
    """Return the classes (n,) that the network sees where things are gone (n, Q)."""
    if sample.redraw is None:
        raise UnavailableError("the task's images cannot be drawn without their parts")
    return logits(task, sample.redraw(gone)).argmax(1)


MEASURES = (
    Measure(
        "object_removal",
        "Things that matter and things that do not",
        {
            "controlled": Column("the class's parts among the three foremost things"),
            "deletion": Column("class changes without the three"),
            "preservation": Column("class stays with the three alone"),
            "ranked": Column("what matters is above what does not"),
            "by_area": Column("the same, area alone", better=""),
            "distracted": Column("relevance on what does not matter", better="low"),
            "area": Column("its share of the area", better=""),
            "background": Column("background's objects that do not matter", better=""),
        },
        _score,
        "A figure's three parts, its hat and feet, and each object of the background are taken "
        "away one by one, all else kept, as in FunnyBirds (Hesse et al., 2023). A thing does not "
        "matter where the logit then falls by less than a twentieth. The three things with the "
        "largest sums of the map should be the three parts (*controlled synthetic data check*): "
        "here the three, where FunnyBirds tunes a threshold, because a class needs all of its "
        "parts and no others. Without these three things the prediction should change (*deletion "
        "check*), with them alone it should stay (*preservation check*); what is taken away is "
        "drawn anew. *Distractibility*: how often does a thing that matters have a larger sum than "
        "one of the same image that does not, one half by chance; sums grow with area, so what "
        "area alone gets, and a flat map with it, stands beside. And which share of the positive "
        "relevance on all things lies on those that do not matter. The parts stand in the middle "
        "and are larger than most of the rest: read every line against the Gaussian, which knows "
        "the middle alone. The last column is the "
        "network's own *background independence*, the same for all methods. Single deletion is "
        "the table of single parts, target sensitivity that of minimal pairs.",
    ),
)
