"""Training images in memory, as many as a method can afford."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.data import DataLoader, Subset

from benchmarks.quality.method import UnavailableError
from benchmarks.quality.task import LabelledData, Task

__all__ = ["draw", "draw_by_class", "small", "step"]

_SIDE = 32  # pixels


def draw(task: Task, count: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return so many training images (M, C, H, W), drawn without replacement, and labels (M,).

    ``count`` is rounded down; all images are returned where there are no more.

    Raises:
        UnavailableError: The task has no training images.
    """
    batches = list(DataLoader(_shuffled(task, seed, count), 256))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def draw_by_class(task: Task, per_class: int, seed: int) -> list[Tensor]:
    """Return up to ``per_class`` training images of each class, J tensors (M_j, C, H, W).

    Raises:
        UnavailableError: The task has no training images, or none of some class.
    """
    found: list[list[Tensor]] = [[] for _ in task.class_names]
    for images, labels in DataLoader(_shuffled(task, seed), 256):
        for image, label in zip(images, labels.tolist(), strict=True):
            if len(found[label]) < per_class:
                found[label].append(image)
        if all(len(own) == per_class for own in found):
            break
    absent = [name for name, own in zip(task.class_names, found, strict=True) if not own]
    if absent:
        raise UnavailableError(f"no training images of class {', '.join(absent)}")
    return [torch.stack(own) for own in found]


def small(images: Tensor) -> Tensor:
    """Return images (N, C, H, W) at 32 pixels a side or less, which a small decoder can draw."""
    height, width = images.shape[2:]
    return adaptive_avg_pool2d(images, (min(height, _SIDE), min(width, _SIDE)))


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step down a loss, a scalar."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _shuffled(task: Task, seed: int, count: float = math.inf) -> LabelledData:
    if task.train is None:
        raise UnavailableError("needs training images")
    size = len(task.train)  # type: ignore[arg-type]  # map-style
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return Subset(task.train, order[: int(min(count, size))].tolist())
