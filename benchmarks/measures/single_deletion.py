"""In-domain single deletion: networks that know images without a patch, each patch removed."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.measures.formulas.perturbation import logits
from benchmarks.measures.formulas.ranks import spearman, steady
from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.method import UnavailableError
from benchmarks.quality.task import Sample, Task
from benchmarks.tasks.patch_deletion import patch_numbers, without_patches

__all__ = ["MEASURES"]


@lru_cache(maxsize=2)
def _falls(task: Task, sample: Sample) -> tuple[Tensor, Tensor]:
    """Return how far logit and probability fall without each patch (N, P), once for all."""
    side = task.missing_patches
    count = side**2
    patches = torch.arange(count).repeat(len(sample))
    missing = without_patches(sample.inputs.repeat_interleave(count, 0), patches, side)
    targets = sample.targets.repeat_interleave(count)
    without = logits(task, missing).double()
    whole = logits(task, sample.inputs).double().repeat_interleave(count, 0)
    falls = []
    for before, after in ((whole, without), (whole.softmax(1), without.softmax(1))):
        fall = (before - after).gather(1, targets[:, None])
        falls.append(fall.view(-1, count))
    return falls[0], falls[1]


def _score(answers: Answers) -> dict[str, Tensor]:
    side = answers.task.missing_patches
    if not side:
        raise UnavailableError("the task's network never met an image without a patch")
    maps = answers.pixel_maps.double()
    numbers = patch_numbers((maps.shape[1], maps.shape[2]), side).flatten()
    sums = torch.zeros(len(maps), side**2).double().index_add_(1, numbers, maps.flatten(1))
    worth, known = steady(sums), torch.ones_like(sums, dtype=torch.bool)
    by_logit, by_chance = (fall[: len(maps)] for fall in _falls(answers.task, answers.sample))
    return {
        "logit": spearman(worth, by_logit, known),
        "probability": spearman(worth, by_chance, known),
    }


MEASURES = (
    Measure(
        "single_deletion",
        "In-domain single deletion (IDSDS)",
        {
            "logit": Column("fall of the logit", percent=False),
            "probability": Column("fall of the probability", percent=False),
        },
        _score,
        "One of 16 patches of the image is put in the mean colour, one after the other. The fall "
        "of the explained class's output is compared with the map's sum over the patch by "
        "Spearman's rank correlation, over the patches of an image (Hesse et al., 2024). The "
        "networks were trained on such images too, so that what falls is not the network's "
        "surprise, as it may be in all other tables of removal. Values of different networks can "
        "be compared.",
    ),
)
