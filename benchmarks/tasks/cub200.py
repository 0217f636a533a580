"""CUB-200-2011 (Wah et al., 2011): 11,788 real birds with boxes and parts, from your files.

Set CAPTUM_KMEX_CUB200 to the folder CUB_200_2011, which holds ``images.txt``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from benchmarks.quality.presets import Preset
from benchmarks.quality.task import Task
from benchmarks.tasks.data.files import find_own
from benchmarks.tasks.data.pictures import PictureData, PictureFiles, hold_out, picture_task
from benchmarks.tasks.data.resnet34 import load_trained_resnet34
from benchmarks.tasks.data.small_pictures import Annotations

__all__ = ["TASKS", "load_data"]

_SIZE, _HALF_PART = 224, 36  # a part is a box of 72 pixels (Huang et al., 2023, EvalProtoPNet)


class _Bird(NamedTuple):
    """A picture; its box and the visible parts' places, by number, in the picture's pixels."""

    path: Path
    label: int
    box: tuple[float, float, float, float]  # left, top, width, height
    parts: dict[int, tuple[float, float]]


class _Birds(NamedTuple):
    """Splits of the data set."""

    train: list[_Bird]
    validation: list[_Bird]
    test: list[_Bird]


def load_data() -> PictureData:
    """Return 5,395 training, 599 validation and 5,794 test pictures, whole and made square."""
    folder = find_own("cub200", "images.txt")
    return _data(folder, _read(folder))


def _data(folder: Path, birds: _Birds) -> PictureData:
    train, validation, test = (
        PictureFiles([(bird.path, bird.label) for bird in split], _SIZE, is_squeezed=True)
        for split in birds
    )
    names = tuple(name.partition(".")[2] for _, name in _rows(folder / "classes.txt"))
    return PictureData(train, validation, test, names)


def _read(folder: Path) -> _Birds:
    labels = {i: int(label) - 1 for i, label in _rows(folder / "image_class_labels.txt")}
    is_train = {i: flag == "1" for i, flag in _rows(folder / "train_test_split.txt")}
    boxes = {i: _floats(box) for i, *box in _rows(folder / "bounding_boxes.txt")}
    parts: dict[str, dict[int, tuple[float, float]]] = {i: {} for i in labels}
    for i, part, x, y, is_visible in _rows(folder / "parts" / "part_locs.txt"):
        if is_visible == "1":
            parts[i][int(part)] = (float(x), float(y))
    birds: dict[bool, list[_Bird]] = {True: [], False: []}
    for i, name in _rows(folder / "images.txt"):
        bird = _Bird(folder / "images" / name, labels[i], boxes[i], parts[i])
        birds[is_train[i]].append(bird)
    return _Birds(*hold_out(birds[True], 10), birds[False])


def _rows(path: Path) -> Iterator[list[str]]:
    if not path.exists():
        raise FileNotFoundError(f"CUB-200's {path} is missing; unpack the whole archive")
    return (line.split() for line in path.read_text().splitlines() if line.strip())


def _floats(box: list[str]) -> tuple[float, float, float, float]:
    left, top, width, height = map(float, box)
    return left, top, width, height


def _load(preset: Preset) -> Task:
    folder = find_own("cub200", "images.txt")
    birds = _read(folder)
    data = _data(folder, birds)
    names = tuple(" ".join(name) for _, *name in _rows(folder / "parts" / "parts.txt"))

    def annotate(split: str, chosen: Tensor) -> Annotations:
        found = [_annotate(getattr(birds, split)[int(i)], len(names)) for i in chosen]
        masks, parts = (torch.stack(column) for column in zip(*found, strict=True))
        return {"masks": masks, "parts": parts, "part_names": names}

    model = load_trained_resnet34("cub200", len(data.class_names))
    return picture_task(
        "cub200", "CUB-200", data, model, preset, weight=3.5, annotate=annotate, notes=_NOTES
    )


def _annotate(bird: _Bird, n_parts: int) -> tuple[Tensor, Tensor]:
    """Return the bird's box (H, W) and a box around each visible part (P, H, W)."""
    with Image.open(bird.path) as picture:
        across, down = (_SIZE / side for side in picture.size)
    left, top, width, height = bird.box
    mask = _box(left * across, top * down, (left + width) * across, (top + height) * down)
    parts = torch.zeros(n_parts, _SIZE, _SIZE, dtype=torch.bool)
    for number, (x, y) in bird.parts.items():
        x, y = x * across, y * down
        parts[number - 1] = _box(x - _HALF_PART, y - _HALF_PART, x + _HALF_PART, y + _HALF_PART)
    return mask, parts


def _box(left: float, top: float, right: float, bottom: float) -> Tensor:
    """Return the pixels whose centres lie in a box."""
    centres = torch.arange(_SIZE) + 0.5
    rows = (centres >= top) & (centres < bottom)
    return rows[:, None] & ((centres >= left) & (centres < right))


_NOTES = (
    "a mask is the bird's bounding box; a part is a box of 72 pixels around its place, so parts "
    "overlap; whole pictures are made square of 224 pixels, not cut to the bird",
)
TASKS = {"cub200": _load}
