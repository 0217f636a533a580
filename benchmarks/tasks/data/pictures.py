"""Tasks of pictures in the user's files: read one by one, standardised as for ImageNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.quality.presets import Preset
from benchmarks.quality.task import LabelledData, Sample, Task
from benchmarks.tasks.data.small_pictures import Annotations, length, places, some

__all__ = [
    "MEAN",
    "STD",
    "PictureData",
    "PictureFiles",
    "hold_out",
    "picture_samples",
    "picture_task",
]

T = TypeVar("T")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PictureData(NamedTuple):
    """Standardised pictures and labels of three splits, and the names of the J classes."""

    train: LabelledData | None
    validation: LabelledData
    test: LabelledData
    class_names: tuple[str, ...]


class PictureFiles(Dataset[tuple[Tensor, ...]]):
    """Picture files and their classes.

    Args:
        samples: Path and class of each picture.
        size: Side of the inputs in pixels.
        is_squeezed: Whether the whole picture is made square; else its middle is cut out, after
            its short side became 8/7 of ``size``, as is usual for ImageNet.
        mean: Mean of the channels.
        std: Standard deviation of the channels.
    """

    def __init__(
        self,
        samples: Sequence[tuple[Path, int]],
        size: int,
        *,
        is_squeezed: bool = False,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        from torchvision.transforms import v2

        self.samples = list(samples)
        cut = [v2.Resize(size * 8 // 7, antialias=True), v2.CenterCrop(size)]
        self._prepare = v2.Compose(
            [
                v2.ToImage(),
                *([v2.Resize((size, size), antialias=True)] if is_squeezed else cut),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        path, label = self.samples[index]
        with Image.open(path) as picture:
            return self._prepare(picture.convert("RGB")), torch.tensor(label)


def picture_samples(folder: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """Return path and class of each picture in a folder with a folder a class, and the names.

    Raises:
        FileNotFoundError: There are none.
    """
    from torchvision.datasets import ImageFolder

    found = ImageFolder(str(folder))  # raises too where a class has no picture
    return [(Path(path), label) for path, label in found.samples], tuple(found.classes)


def hold_out(items: Sequence[T], every: int) -> tuple[list[T], list[T]]:
    """Return a split without one item in ``every``, drawn by chance, and those items."""
    order = places(len(items), len(items)).tolist()
    n_held = len(items) // every
    return [items[i] for i in order[n_held:]], [items[i] for i in order[:n_held]]


def picture_task(
    name: str,
    title: str,
    data: PictureData,
    model: nn.Module,
    preset: Preset,
    *,
    weight: float,
    layers: tuple[str, ...] = ("layer2", "layer3", "layer4"),
    annotate: Callable[[str, Tensor], Annotations] | None = None,
    mean: tuple[float, ...] = MEAN,
    std: tuple[float, ...] = STD,
    notes: tuple[str, ...] = (),
) -> Task:
    """Return the task of a network on pictures that are read one by one.

    ``annotate`` takes a split and places in it, and returns what else is known of those images.
    """

    def draw(split: str, count: int) -> Sample:
        pictures: LabelledData = getattr(data, split)
        chosen = places(length(pictures), count)
        read = [pictures[int(i)] for i in chosen]
        inputs, labels = (torch.stack(column) for column in zip(*read, strict=True))
        known = annotate(split, chosen) if annotate is not None else {}
        with torch.no_grad():
            targets = torch.cat([model(part).argmax(1) for part in inputs.split(16)])
        return Sample(inputs, targets, labels, **known)

    return Task(
        name=name,
        title=title,
        model=model,
        layers=layers,
        class_names=data.class_names,
        train=some(data.train, preset.n_train) if data.train is not None else None,
        test=some(data.test, preset.n_test),
        sample=draw,
        mean=mean,
        std=std,
        weight=weight,
        notes=notes,
    )
