"""Training images by class, and sets of images that show a concept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from benchmarks.quality.method import UnavailableError
from benchmarks.quality.task import Task

__all__ = ["ConceptImages", "class_images", "training_images"]


@dataclass(frozen=True)
class ConceptImages:
    """Images of K concepts, what they are tested against, and where the concepts are.

    Attributes:
        examples: Images of each concept, K float tensors (n, C, H, W).
        classes: Class that each concept comes from.
        controls: Random images of the same kind, R float tensors (n, C, H, W).
        locate: Takes images and targets and returns the concept of each pixel, integer tensor
            (N, h, w), K where there is none; ``None`` if the concepts are nowhere.
    """

    examples: list[Tensor]
    classes: list[int]
    controls: list[Tensor]
    locate: Callable[[Tensor, Tensor], Tensor] | None = None


def training_images(task: Task) -> Sequence[object]:
    """Return the training set as a sequence.

    Raises:
        UnavailableError: The task has none.
    """
    if task.train is None:
        raise UnavailableError("needs training images")
    return cast("Sequence[object]", task.train)


def class_images(task: Task, count: int, seed: int) -> list[Tensor]:
    """Return so many training images of each class, or all there are, (n, C, H, W) each.

    Raises:
        UnavailableError: The task has no training images, or none of some class.
    """
    data = cast("Sequence[tuple[Tensor, ...]]", training_images(task))
    found: list[list[Tensor]] = [[] for _ in range(task.n_classes)]
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    for index in order.tolist():
        image, label = data[index][:2]
        if len(found[int(label)]) < count:
            found[int(label)].append(image)
        if all(len(images) == count for images in found):
            break
    if not all(found):
        raise UnavailableError("needs training images of every class")
    return [torch.stack(images) for images in found]
