"""Tasks of small pictures in memory: their splits, their shipped networks, their ``Task``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from benchmarks.evaluation.presets import Preset
from benchmarks.evaluation.task import LabelledData, Sample, Task
from captum_kmex.demo import DIGIT_LAYERS, SmallResNet

__all__ = ["Annotations", "SmallData", "load_small_resnet", "save_small_resnet", "small_task"]

Annotations = Mapping[str, Any]  # further fields of ``Sample``
_FOLDER = Path(__file__).parents[1] / "checkpoints"


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
) -> Task:
    """Return the task of a small ResNet.

    ``annotate`` takes a split and places in it, and returns what else is known of those images.
    """
    model = load_small_resnet(name, data.train)

    def draw(split: str, count: int) -> Sample:
        images, labels = getattr(data, split).tensors
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
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
        train=_some(data.train, preset.n_train),
        test=_some(data.test, preset.n_test),
        sample=draw,
        mean=mean,
        std=std,
        weight=weight,
        notes=notes,
    )


def load_small_resnet(name: str, train: TensorDataset) -> SmallResNet:
    """Return the network trained on a task's images.

    Args:
        name: Name of the task.
        train: Its training images and labels, for the number of channels and classes.

    Raises:
        FileNotFoundError: There is no checkpoint; the message says how to make it.
    """
    path = _path(name)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint {path}; run: python -m benchmarks.train {name}")
    images, labels = train.tensors
    model = SmallResNet(int(labels.max()) + 1, images.shape[1])
    model.load_state_dict(load_file(path))
    return model.eval()


def save_small_resnet(name: str, model: SmallResNet) -> Path:
    """Keep a trained network and return its path."""
    _path(name).parent.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, _path(name))
    return _path(name)


def _path(name: str) -> Path:
    return _FOLDER / f"{name}.safetensors"


def _some(data: TensorDataset, count: int | None) -> LabelledData:
    """Return so many images of a split, drawn once and for all."""
    if count is None or count >= len(data):
        return data
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    return Subset(data, order[:count].tolist())
