"""ImageNet (Russakovsky et al., 2015) with torchvision's ResNet34, from your files.

Set CAPTUM_KMEX_IMAGENET to the folder that holds ``val``, and ``train`` if methods shall be
fitted; each has a folder a class, named by its WordNet number. Classes may be missing.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.quality.presets import Preset
from benchmarks.quality.task import Task
from benchmarks.tasks.data.files import find_own
from benchmarks.tasks.data.pictures import (
    PictureData,
    PictureFiles,
    hold_out,
    picture_samples,
    picture_task,
)
from benchmarks.tasks.data.resnet34 import load_imagenet_weights

__all__ = ["TASKS", "load_data"]

_SIZE = 224


def load_data() -> PictureData:
    """Return the training pictures, if they are there, and a fifth and the rest of ``val``."""
    from torchvision.models import ResNet34_Weights

    folder = find_own("imagenet", "val")
    rest, held = hold_out(_samples(folder / "val"), 5)
    train = folder / "train"
    return PictureData(
        PictureFiles(_samples(train), _SIZE) if train.is_dir() else None,
        PictureFiles(held, _SIZE),
        PictureFiles(rest, _SIZE),
        tuple(ResNet34_Weights.IMAGENET1K_V1.meta["categories"]),
    )


def _samples(folder: Path) -> list[tuple[Path, int]]:
    """Return pictures with the number that their class has among all thousand."""
    from timm.data.imagenet_info import ImageNetInfo

    samples, present = picture_samples(folder)
    info = ImageNetInfo()
    every = {info.index_to_label_name(i): i for i in range(1000)}
    strange = [name for name in present if name not in every]
    if strange:
        raise FileNotFoundError(
            f"{folder} has folders that are no class of ImageNet: {', '.join(strange[:3])}; they "
            "must be named like n01440764"
        )
    return [(path, every[present[label]]) for path, label in samples]


def _load(preset: Preset) -> Task:
    from torchvision.models import resnet34

    data = load_data()
    model = resnet34(weights=None)
    model.load_state_dict(load_imagenet_weights())
    return picture_task(
        "imagenet", "ImageNet", data, model.eval(), preset, weight=3.5, notes=_NOTES
    )


_NOTES = ("the validation split is a fifth of ImageNet's own validation set, the rest is the test",)
TASKS = {"imagenet": _load}
