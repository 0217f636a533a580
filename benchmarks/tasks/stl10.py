"""STL10 (Coates et al., 2011): 13,000 real pictures of ten classes, 96x96, from your files.

Set CAPTUM_KMEX_STL10 to the folder that holds ``stl10_binary``.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.quality.presets import Preset
from benchmarks.quality.task import Task
from benchmarks.tasks.data.files import find_own
from benchmarks.tasks.data.pictures import MEAN, STD, PictureData, hold_out, picture_task
from benchmarks.tasks.data.resnet34 import load_trained_resnet34

__all__ = ["TASKS", "load_data"]


class _Pictures(Dataset[tuple[Tensor, ...]]):
    """Pictures (N, 3, 96, 96) of bytes and labels (N,), standardised when they are read."""

    def __init__(self, pictures: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self._pictures, self._labels = pictures, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        image = torch.tensor(self._pictures[index]).float() / 255
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
        return (image - mean) / std, torch.tensor(int(self._labels[index]))


def load_data() -> PictureData:
    """Return 4,500 training, 500 validation and 8,000 test pictures."""
    from torchvision.datasets import STL10

    folder = find_own("stl10", "stl10_binary")
    try:
        train, test = (STL10(str(folder), split) for split in ("train", "test"))
    except RuntimeError as error:
        raise FileNotFoundError(f"{folder / 'stl10_binary'}: {error}") from error
    kept, held = hold_out(range(len(train)), 10)
    return PictureData(
        _Pictures(train.data[kept], train.labels[kept]),
        _Pictures(train.data[held], train.labels[held]),
        _Pictures(test.data, test.labels),
        tuple(train.classes),
    )


def _load(preset: Preset) -> Task:
    data = load_data()
    model = load_trained_resnet34("stl10", len(data.class_names))
    return picture_task("stl10", "STL10", data, model, preset, weight=0.65)


TASKS = {"stl10": _load}
