"""Any folder of pictures, with any classifier of torchvision.

Set CAPTUM_KMEX_IMAGE_FOLDER to a folder that holds ``train`` and ``test``, each with a folder a
class, and, if the network is your own, ``task.json``, in which every entry may be left out::

    {"model": "resnet50", "checkpoint": "weights.pth",
     "layers": ["layer2", "layer3", "layer4"],
     "size": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

The checkpoint is a state dict (``.pth`` or ``.safetensors``), its path relative to the folder.
Without one, train a ResNet34: ``python -m benchmarks train image_folder``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.quality.presets import Preset
from benchmarks.quality.task import Task
from benchmarks.tasks.data.files import find_own
from benchmarks.tasks.data.pictures import (
    MEAN,
    STD,
    PictureData,
    PictureFiles,
    hold_out,
    picture_samples,
    picture_task,
)
from benchmarks.tasks.data.resnet34 import load_trained_resnet34

__all__ = ["TASKS", "load_data"]


@dataclass(frozen=True)
class _Settings:
    """What ``task.json`` may say."""

    model: str = "resnet34"
    checkpoint: str | None = None
    layers: tuple[str, ...] = ("layer2", "layer3", "layer4")
    size: int = 224
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @classmethod
    def read(cls, folder: Path) -> _Settings:
        """Return the settings of a folder."""
        path = folder / "task.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        unknown = set(found) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(
                f"{path} has {', '.join(sorted(unknown))}; known are "
                f"{', '.join(cls.__dataclass_fields__)}"
            )
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in found.items()
        }
        return cls(**values)


def load_data() -> PictureData:
    """Return nine tenths of ``train``, the rest of it, and ``test``."""
    folder = find_own("image_folder", "train")
    settings = _Settings.read(folder)
    first, names = picture_samples(folder / "train")
    last, test_names = picture_samples(folder / "test")
    if test_names != names:
        raise FileNotFoundError(
            f"train and test in {folder} must have the same classes; only one of them has "
            f"{', '.join(sorted(set(names) ^ set(test_names))[:5])}"
        )
    train, validation, test = (
        PictureFiles(split, settings.size, mean=settings.mean, std=settings.std)
        for split in (*hold_out(first, 10), last)
    )
    return PictureData(train, validation, test, names)


def _load(preset: Preset) -> Task:
    data = load_data()
    folder = find_own("image_folder", "train")
    settings = _Settings.read(folder)
    return picture_task(
        "image_folder",
        f"Pictures in {folder.name}",
        data,
        _model(folder, settings, len(data.class_names)),
        preset,
        weight=3.5 * (settings.size / 224) ** 2,
        layers=settings.layers,
        mean=settings.mean,
        std=settings.std,
    )


def _model(folder: Path, settings: _Settings, n_classes: int) -> nn.Module:
    from torchvision.models import get_model

    if settings.checkpoint is None:
        return load_trained_resnet34("image_folder", n_classes)
    path = folder / settings.checkpoint
    if not path.exists():
        raise FileNotFoundError(f"task.json names a checkpoint that is not there: {path}")
    is_safe = path.suffix == ".safetensors"
    state = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    model: nn.Module = get_model(settings.model, weights=None, num_classes=n_classes)
    model.load_state_dict(state)
    return model.eval()


TASKS = {"image_folder": _load}
