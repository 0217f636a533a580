"""Fashion-MNIST (Xiao et al., 2017): 70,000 real pictures of clothes, 28x28."""

from __future__ import annotations

import gzip
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from benchmarks.quality.presets import Preset
from benchmarks.quality.task import Task
from benchmarks.tasks.data.files import find_folder
from benchmarks.tasks.data.small_pictures import SmallData, annotate_ink, small_task

__all__ = ["CLASS_NAMES", "MEAN", "STD", "TASKS", "load_data"]


def load_data() -> SmallData:
    """Return 55,000 training, 5,000 validation and 10,000 test pictures, standardised."""
    folder = find_folder("datasets/fashion-mnist", "dataset-fashion-mnist")

    def read(name: str, offset: int) -> Tensor:
        with gzip.open(folder / f"{name}.gz") as file:
            return torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=offset).copy())

    parts = []
    for prefix in ("train", "t10k"):
        images = read(f"{prefix}-images-idx3-ubyte", 16).view(-1, 1, 28, 28).float() / 255
        labels = read(f"{prefix}-labels-idx1-ubyte", 8).long()
        parts.append(((images - MEAN) / STD, labels))
    (x, y), test = parts
    return SmallData(
        TensorDataset(x[:_N_TRAIN], y[:_N_TRAIN]),
        TensorDataset(x[_N_TRAIN:], y[_N_TRAIN:]),
        TensorDataset(*test),
    )


def _load(preset: Preset) -> Task:
    title, data = "Fashion-MNIST", load_data()
    annotate = partial(annotate_ink, data, MEAN, STD)
    return small_task(
        "fashion_mnist", title, data, CLASS_NAMES, (MEAN,), (STD,), preset,
        annotate=annotate, notes=_NOTES,
    )  # fmt: skip


MEAN, STD = 0.2860, 0.3530
_N_TRAIN = 55_000
CLASS_NAMES = (
    "T-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_NOTES = (
    "a mask is the pixels brighter than a tenth of white: black parts of a garment are left out",
)
TASKS = {"fashion_mnist": _load}
