"""Part-annotated figures, generated: what makes the class is known by construction."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from benchmarks.quality.presets import Preset
from benchmarks.quality.task import Task
from benchmarks.tasks.data.birds import (
    CLASSES,
    PARTS,
    SIZE,
    Figure,
    Pose,
    class_names,
    partner,
    render,
)
from benchmarks.tasks.data.scenes import MOST_OBJECTS
from benchmarks.tasks.data.small_pictures import Annotations, SmallData, small_task

__all__ = ["MEAN", "STD", "TASKS", "WEIGHT", "load_data", "pose_of", "standardised"]

MEAN, STD = (0.58, 0.54, 0.52), (0.18, 0.15, 0.16)
WEIGHT = 0.12  # of a forward pass, as in ``Task``
_REMOVABLE = (*PARTS, "hat", "feet")  # what a figure can be drawn without
_SPLITS = {"train": 2000, "validation": 400, "test": 400}


def load_data() -> SmallData:
    """Return 2,000 training, 400 validation and 400 test figures, as many of each class."""
    return SmallData(*(_split(name, count) for name, count in _SPLITS.items()))


def pose_of(split: str, index: int) -> tuple[int, Pose]:
    """Return class and pose of a split's figure, for drawing it again."""
    return index % len(CLASSES), Pose.draw((list(_SPLITS).index(split), index))


def standardised(pictures: list[NDArray[np.uint8]]) -> Tensor:
    """Return pictures (H, W, 3) as the network takes them, (N, 3, H, W)."""
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def annotate(split: str, chosen: Tensor) -> Annotations:
    """Return the masks of the figures at these places of a split, and each without one part."""
    drawn = [pose_of(split, int(i)) for i in chosen]
    figures = [render(label, pose) for label, pose in drawn]
    pairs = zip(figures, drawn, strict=True)
    without = [render(label, pose, [part]).picture for label, pose in drawn for part in PARTS]
    return {
        "masks": _stack([f.object_mask for f in figures]),
        "parts": _stack([np.stack([f.masks[part] for part in PARTS]) for f in figures]),
        "without": standardised(without).unflatten(0, (-1, len(PARTS))),
        "partners": torch.tensor([[partner(label, part) for part in PARTS] for label, _ in drawn]),
        "part_names": tuple(PARTS),
        "objects": torch.stack([_objects(figure, pose) for figure, (_, pose) in pairs]),
        "redraw": partial(_redraw, drawn),
    }


def _objects(figure: Figure, pose: Pose) -> Tensor:
    """Return where what can be taken away is: parts, hat, feet, the background's objects."""
    behind = [mask & ~figure.object_mask for mask in pose.background.visible()]
    empty = [np.zeros((SIZE, SIZE), bool)] * (MOST_OBJECTS - len(behind))
    return _stack([*(figure.masks[name] for name in _REMOVABLE), *behind, *empty])


def _redraw(drawn: Sequence[tuple[int, Pose]], gone: Tensor) -> Tensor:
    """Return the first n figures (n, 3, H, W) without what is gone (n, Q)."""
    pictures = []
    for (label, pose), missing in zip(drawn, gone.tolist(), strict=False):
        drop = [name for name, is_gone in zip(_REMOVABLE, missing, strict=False) if is_gone]
        clear = [i for i, is_gone in enumerate(missing[len(_REMOVABLE) :]) if is_gone]
        pictures.append(render(label, pose, drop, clear=clear).picture)
    return standardised(pictures)


def _stack(masks: list[NDArray[np.bool_]]) -> Tensor:
    return torch.from_numpy(np.stack(masks))


def _split(name: str, count: int) -> TensorDataset:
    drawn = [pose_of(name, i) for i in range(count)]
    images = standardised([render(label, pose).picture for label, pose in drawn])
    return TensorDataset(images, torch.tensor([label for label, _ in drawn]))


def _load(preset: Preset) -> Task:
    title, data = "Figures with known parts", load_data()
    return small_task(
        "parts", title, data, class_names(), MEAN, STD, preset,
        annotate=annotate, weight=WEIGHT, notes=_NOTES,
    )  # fmt: skip


_NOTES = (
    "a class is a choice of one of two beaks, wings and tails; every class has three minimal "
    "pairs, one a part; a mask is the whole figure, the parts are beak, wing and tail",
    "the network was checked on 400 test figures (98.5 % right): with a part swapped, 99 % are "
    "taken for the minimal pair; with a part dropped, the logit falls by 3.5 on average, the class "
    "and its minimal pair become as likely as each other, and the prediction changes for one in "
    "two; without hat and feet it changes for fewer than one in a hundred",
    "of 64 test figures, 92 % change class without their three parts, and 95 % keep it without "
    "everything else: hat, feet and all objects of the background",
)
TASKS = {"parts": _load}
