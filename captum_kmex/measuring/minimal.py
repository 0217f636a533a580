"""The fewest segments that keep a class, and the fewest whose removal changes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_kmex.classes import class_of, class_of_logit, predicted_classes
from captum_kmex.explaining.evidence import Question

__all__ = ["Minimal", "minimal_segments"]

_AT_ONCE = 8  # prefixes tried together


@dataclass(frozen=True)
class Minimal:
    """Segments by number, the one with the most evidence first; ``None`` where none would do.

    Attributes:
        enough: The fewest that keep the class when all others are removed.
        needed: The fewest without which the class is another one.
    """

    enough: tuple[int, ...] | None
    needed: tuple[int, ...] | None


def minimal_segments(
    labels: Tensor,
    evidence: Tensor,
    question: Question,
    whole: Tensor,
    run: Callable[[Tensor], Tensor],
) -> Minimal:
    """Keep and remove ever more segments, in the order of their evidence, and run the model.

    Of a single logit below 0, which is for class 0, the segments with the least go first.

    Args:
        labels: Segments of the image ``(*grid)``.
        evidence: Of each segment, in the order of their numbers (S,).
        question: What is explained of the image.
        whole: Logits of the image (1, J).
        run: Gives the logits (M, J) of the image with some cells kept ``(M, *grid)``.
    """
    numbers = labels.unique()
    for_class = evidence if _speaks_for_class(question, whole) else -evidence
    order = numbers[for_class.argsort(descending=True, stable=True)]
    grown = torch.stack([torch.isin(labels, order[: i + 1]) for i in range(len(order))])
    if not _keeps(question, whole, whole)[0]:  # it was another class's to begin with
        return Minimal(None, None)

    def first(kept: Tensor, wanted: bool) -> tuple[int, ...] | None:
        for start, some in enumerate(kept.split(_AT_ONCE)):
            found = (_keeps(question, run(some), whole) == wanted).nonzero()
            if len(found):
                count = start * _AT_ONCE + int(found[0]) + 1
                return tuple(order[:count].tolist())
        return None

    return Minimal(first(grown, wanted=True), first(~grown, wanted=False))


def _speaks_for_class(question: Question, whole: Tensor) -> bool:
    target = question.target[:1].to(whole.device)
    return bool(class_of(target, whole) == class_of_logit(target, whole))


def _keeps(question: Question, logits: Tensor, whole: Tensor) -> Tensor:
    """Return whether outputs (M, J) say what is explained (M,)."""
    asked = question.repeated(0, len(logits), logits.device)
    if question.contrast is not None:
        return asked.output(logits) > 0
    return predicted_classes(logits) == class_of(asked.target, whole)
