"""Deletion and insertion with each other's fill: whether a map's rank depends on it."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.measures.faithfulness import area, blurred, curve
from benchmarks.measures.formulas.perturbation import logits, n_steps, perturbed_sample, ranks
from benchmarks.quality.measure import Answers, Column, Measure

__all__ = ["MEASURES"]


def _score(answers: Answers) -> dict[str, Tensor]:
    task, some, steps = answers.task, perturbed_sample(answers), n_steps(answers)
    x, targets, first = some.inputs, some.targets, ranks(answers.pixel_maps[: len(some)])

    def probability(images: Tensor) -> Tensor:
        return logits(task, images).double().softmax(1).gather(1, targets[:, None])

    def along(start: Tensor, end: Tensor) -> Tensor:
        inner = curve(task, start, end, first, targets, steps)
        return area(torch.cat([probability(start), inner, probability(end)], 1))

    return {
        "deletion": along(x, blurred(x)),
        "insertion": along(torch.zeros_like(x), x),
    }


MEASURES = (
    Measure(
        "other_fills",
        "Deletion to a blurred image, insertion from the mean colour",
        {
            "deletion": Column("deletion, blur", better="low"),
            "insertion": Column("insertion, mean colour"),
        },
        _score,
        "As deletion and insertion, with what stands for a missing pixel exchanged. A map that "
        "wins with one fill alone has found what the fill does, not what the network reads.",
    ),
)
