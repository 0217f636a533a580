"""Generated pictures in the layouts of STL10 and CUB-200, to try what reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["write_cub200", "write_stl10"]

_STL10_CLASSES, _CUB200_CLASSES = 10, 2
_SIZE = (100, 50)  # width and height of a stand-in's bird


def write_stl10(folder: Path, n_train: int, n_test: int) -> dict[str, NDArray[np.uint8]]:
    """Write ``stl10_binary`` as torchvision reads it; the classes take turns.

    Args:
        folder: Where; it is made.
        n_train: Training pictures.
        n_test: Test pictures.

    Returns:
        The pictures (N, 3, 96, 96) of each split, row by row; the files have columns first.
    """
    binary = folder / "stl10_binary"
    binary.mkdir(parents=True)
    (binary / "class_names.txt").write_text("".join(f"class{i}\n" for i in range(_STL10_CLASSES)))
    rng, written = np.random.default_rng(0), {}
    for split, count in (("train", n_train), ("test", n_test)):
        labels = np.arange(count) % _STL10_CLASSES
        pictures = np.stack([_picture(rng, int(c), _STL10_CLASSES, (96, 96)) for c in labels])
        pictures.transpose(0, 1, 3, 2).tofile(binary / f"{split}_X.bin")
        (labels + 1).astype(np.uint8).tofile(binary / f"{split}_y.bin")
        written[split] = pictures
    return written


def write_cub200(folder: Path, n_train: int, n_test: int) -> None:
    """Write what ``CUB_200_2011`` holds: 100 x 50 pixels a picture, two kinds of birds in turn.

    Every bird has the same box and two parts in the middle, of which the first is hidden.

    Args:
        folder: Where; it is made.
        n_train: Training pictures, the first ones.
        n_test: Test pictures.
    """
    numbers = range(1, n_train + n_test + 1)
    kinds = {i: (i - 1) % _CUB200_CLASSES for i in numbers}
    names = {i: f"{kinds[i] + 1:03}.Kind_{kinds[i]}/bird_{i}.png" for i in numbers}
    rng = np.random.default_rng(0)
    for i in numbers:
        path = folder / "images" / names[i]
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = _picture(rng, kinds[i], _CUB200_CLASSES, _SIZE[::-1])
        Image.fromarray(picture.transpose(1, 2, 0)).save(path)
    files = {
        "images.txt": [f"{i} {names[i]}" for i in numbers],
        "classes.txt": [f"{k + 1} {k + 1:03}.Kind_{k}" for k in range(_CUB200_CLASSES)],
        "image_class_labels.txt": [f"{i} {kinds[i] + 1}" for i in numbers],
        "train_test_split.txt": [f"{i} {int(i <= n_train)}" for i in numbers],
        "bounding_boxes.txt": [f"{i} 10.0 5.0 40.0 20.0" for i in numbers],
        "parts/parts.txt": ["1 beak", "2 left wing"],
        "parts/part_locs.txt": [f"{i} {p} 50.0 25.0 {p - 1}" for i in numbers for p in (1, 2)],
    }
    (folder / "parts").mkdir()
    for name, rows in files.items():
        (folder / name).write_text("".join(f"{row}\n" for row in rows))


def _picture(
    rng: np.random.Generator, label: int, n_classes: int, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return noise (3, H, W) in the colour of a class."""
    colour = np.random.default_rng(label * n_classes).integers(0, 128, (3, 1, 1))
    return (rng.integers(0, 128, (3, *size)) + colour).astype(np.uint8)
