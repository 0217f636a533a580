"""Small pictures again, with networks that know images of which a patch is missing.

Removing a patch shows such a network nothing that it has not met in training, so that the fall of
its output is the patch's doing (Hesse et al., "Benchmarking the Attribution Quality of Vision
Models", NeurIPS 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from benchmarks.quality.presets import Preset
from benchmarks.quality.task import Task
from benchmarks.tasks import fashion_mnist, mnist, parts
from benchmarks.tasks.data.birds import class_names
from benchmarks.tasks.data.small_pictures import SmallData, small_task

__all__ = ["PATCHES", "SOURCES", "TASKS", "patch_numbers", "training_data", "without_patches"]

PATCHES = 4  # a side


class _Source(NamedTuple):
    """A task of small pictures whose data are used."""

    title: str
    data: Callable[[], SmallData]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    epochs: int
    weight: float = 0.03


SOURCES = {
    "mnist_deletion": _Source(
        "MNIST", mnist.load_data, mnist.CLASS_NAMES, (mnist.MEAN,), (mnist.STD,), 4
    ),
    "fashion_mnist_deletion": _Source(
        "Fashion-MNIST", fashion_mnist.load_data, fashion_mnist.CLASS_NAMES,
        (fashion_mnist.MEAN,), (fashion_mnist.STD,), 2,
    ),
    "parts_deletion": _Source(
        "Figures with known parts", parts.load_data, class_names(),
        parts.MEAN, parts.STD, 4, parts.WEIGHT,
    ),
}  # fmt: skip


def patch_numbers(size: tuple[int, int], side: int) -> Tensor:
    """Return the number of each pixel's patch (H, W), of ``side`` times ``side`` patches."""
    rows, columns = (torch.arange(length) * side // length for length in size)
    return rows[:, None] * side + columns


def without_patches(images: Tensor, patches: Tensor, side: int) -> Tensor:
    """Return standardised images (N, C, H, W), each in mean colour at its patch (N,).

    A patch is one of ``side`` times ``side``.
    """
    height, width = images.shape[2:]
    is_missing = patch_numbers((height, width), side) == patches[:, None, None]
    return images.masked_fill(is_missing.unsqueeze(1), 0)


def training_data(name: str) -> SmallData:
    """Return a task's data; in training every image is met whole, and once without a patch."""
    data = SOURCES[name].data()
    images, labels = data.train.tensors
    drawn = torch.randint(PATCHES**2, (len(images),), generator=torch.Generator().manual_seed(0))
    train = TensorDataset(
        torch.cat([images, without_patches(images, drawn, PATCHES)]), torch.cat([labels, labels])
    )
    return SmallData(train, data.validation, data.test)


def _load(name: str, preset: Preset) -> Task:
    source = SOURCES[name]
    return small_task(
        name, f"{source.title}, trained with patches missing", source.data(), source.class_names,
        source.mean, source.std, preset,
        weight=source.weight, notes=_NOTES, missing_patches=PATCHES,
    )  # fmt: skip


_NOTES = (
    "each training image is met whole, and with one of 16 patches in the mean colour",
    "the network's weights are kept in half precision",
)
TASKS: dict[str, Callable[[Preset], Task]] = {name: partial(_load, name) for name in SOURCES}
