"""Tasks of small pictures in memory: their splits, their shipped networks, their ``Task``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from benchmarks.quality.presets import Preset
from benchmarks.quality.task import LabelledData, Sample, Task
from captum_kmex.demo import DIGIT_LAYERS, SmallResNet

__all__ = [
    "Annotations",
    "SmallData",
    "annotate_ink",
    "length",
    "load_small_resnet",
    "places",
    "save_small_resnet",
    "small_task",
    "some",
]

Annotations = Mapping[str, Any]  # further fields of ``Sample``
_FOLDER = Path(__file__).parents[2] / "checkpoints"


class SmallData(NamedTuple):
    """Standardised pictures (N, C, H, W) and labels (N,) of three splits."""

    train: TensorDataset
    validation: TensorDataset
    test: TensorDataset


def small_task(
    name: str,
    title: str,
    data: SmallData,
    class_names: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    preset: Preset,
    *,
    annotate: Callable[[str, Tensor], Annotations] | None = None,
    weight: float = 0.03,
    notes: tuple[str, ...] = (),
    missing_patches: int = 0,
) -> Task:
    """Return the task of a small ResNet.

    ``annotate`` takes a split and places in it, and returns what else is known of those images.
    """
    model = load_small_resnet(name, data.train.tensors[0].shape[1], len(class_names))

    def draw(split: str, count: int) -> Sample:
        images, labels = getattr(data, split).tensors
        chosen = places(len(images), count)
        inputs = images[chosen]
        with torch.no_grad():
            targets = torch.cat([model(part).argmax(1) for part in inputs.split(64)])
        known = annotate(split, chosen) if annotate is not None else {}
        return Sample(inputs, targets, labels[chosen], **known)

    return Task(
        name=name,
        title=title,
        model=model,
        layers=tuple(DIGIT_LAYERS),
        class_names=class_names,
        train=some(data.train, preset.n_train),
        test=some(data.test, preset.n_test),
        sample=draw,
        mean=mean,
        std=std,
        weight=weight,
        notes=notes,
        missing_patches=missing_patches,
    )


def annotate_ink(
    data: SmallData, mean: float, std: float, split: str, chosen: Tensor
) -> Annotations:
    """Return the masks of objects on black: the pixels brighter than a tenth of white."""
    images: Tensor = getattr(data, split).tensors[0][chosen]
    return {"masks": images[:, 0] * std + mean > 0.1}


def load_small_resnet(name: str, channels: int, n_classes: int) -> SmallResNet:
    """Return the network trained on a task's images.

    Args:
        name: Name of the task.
        channels: Channels C of its images.
        n_classes: Number of classes J.

    Raises:
        FileNotFoundError: There is no checkpoint; the message says how to make it.
    """
    path = _path(name)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint {path}; run: python -m benchmarks train {name}")
    model = SmallResNet(n_classes, channels)
    model.load_state_dict(load_file(path))
    return model.eval()


def save_small_resnet(name: str, model: SmallResNet) -> Path:
    """Keep a trained network and return its path."""
    _path(name).parent.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, _path(name))
    return _path(name)


def _path(name: str) -> Path:
    return _FOLDER / f"{name}.safetensors"


def some(data: LabelledData, count: int | None) -> LabelledData:
    """Return so many images of a split, drawn once and for all."""
    if count is None or count >= length(data):
        return data
    return Subset(data, places(length(data), count).tolist())


def length(data: LabelledData) -> int:
    """Return the number of images."""
    return len(data)  # type: ignore[arg-type]  # map-style, so it has a length


def places(size: int, count: int) -> Tensor:
    """Return so many places of a split of this size, always the same."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(0))[:count]
