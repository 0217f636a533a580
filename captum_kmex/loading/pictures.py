"""Pictures on disk as a data set: folders of classes, single files, damaged ones left out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from captum_kmex.exceptions import SkippedImageWarning, warn_user
from captum_kmex.loading.preprocessing import Preprocessing

__all__ = [
    "NamedPictures",
    "PictureSet",
    "class_folders",
    "find_pictures",
    "open_picture",
    "readable",
]

_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_DECODERS = 4  # threads that check files; Pillow decodes outside Python's lock


@dataclass(frozen=True)
class PictureSet(Dataset[tuple[Tensor, int] | Tensor]):
    """Pictures, preprocessed when they are asked for.

    Attributes:
        files: The files.
        root: Folder that their names in a record are relative to.
        preprocessing: From a picture to an input.
        labels: Class of each file, if there are class folders.
        folders: Names of the class folders, sorted.
    """

    files: tuple[Path, ...]
    root: Path
    preprocessing: Preprocessing
    labels: tuple[int, ...] = ()
    folders: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | Tensor:
        x = self.preprocessing(open_picture(self.files[index]))
        return (x, self.labels[index]) if self.labels else x

    def subset(self, positions: Sequence[int]) -> PictureSet:
        """Return the set with some of its files, in the order given."""
        files = tuple(self.files[i] for i in positions)
        labels = tuple(self.labels[i] for i in positions) if self.labels else ()
        return replace(self, files=files, labels=labels)

    def limited(self, count: int, seed: int) -> PictureSet:
        """Return the set with at most so many files of each class, drawn at random."""
        labels = torch.tensor(self.labels if self.labels else [0] * len(self))
        generator = torch.Generator().manual_seed(seed)
        kept: list[int] = []
        for c in labels.unique().tolist():
            members = (labels == c).nonzero().squeeze(1)
            order = torch.randperm(len(members), generator=generator)[:count]
            kept += members[order].tolist()
        return self.subset(sorted(kept))

    def unlabelled(self) -> PictureSet:
        """Return the set without classes."""
        return replace(self, labels=(), folders=())

    def without(self, names: Sequence[str]) -> PictureSet:
        """Return the set without the files of these names."""
        left_out = set(names)
        return self.subset([i for i, name in enumerate(self.names()) if name not in left_out])

    def relabelled(self, labels: Sequence[int]) -> PictureSet:
        """Return the set with another number for each folder."""
        return replace(self, labels=tuple(labels[label] for label in self.labels))

    def names(self) -> list[str]:
        """Return the files' names in their folder, the same on every system."""
        return [
            os.path.relpath(file.absolute(), self.root.absolute()).replace(os.sep, "/")
            for file in self.files
        ]

    def digest(self) -> str:
        """Return a hash over the names, to know the set again."""
        return hashlib.sha256("\n".join(self.names()).encode()).hexdigest()


class NamedPictures(Sequence[object]):
    """The pictures of a set with label and name, as a report takes them.

    Args:
        pictures: The set.
    """

    def __init__(self, pictures: PictureSet) -> None:
        self._pictures = pictures
        self._names = pictures.names()

    def __len__(self) -> int:
        return len(self._pictures)

    @overload
    def __getitem__(self, index: int) -> object: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[object]: ...

    def __getitem__(self, index: int | slice) -> object:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        item = self._pictures[index]
        x, label = item if isinstance(item, tuple) else (item, None)
        return x, label, self._names[index]


def open_picture(path: Path) -> Image.Image:
    """Read a picture, 8 bits a channel.

    Raises:
        ValueError: The file is damaged, or no picture with 8 or 16 bits a channel.
        FileNotFoundError: There is no such file.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture ({error})") from error
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"{path} has pixels of type {image.mode!r}; save it with 8 or 16 bits")
    return image


def class_folders(root: Path, preprocessing: Preprocessing) -> PictureSet:
    """Find pictures in the layout of torchvision's ``ImageFolder``: one folder a class.

    Args:
        root: The folder that holds the class folders.
        preprocessing: From a picture to an input.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It has no class folders, or one of them no pictures.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; give one with a folder of pictures a class")
    folders = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise ValueError(f"{root} holds no folders; give one with a folder of pictures a class")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(folders):
        found = _walk(root / name)
        if not found:
            raise ValueError(f"{root / name} holds no pictures ({' '.join(_ENDINGS)})")
        files += found
        labels += [label] * len(found)
    return PictureSet(tuple(files), root, preprocessing, tuple(labels), tuple(folders))


def find_pictures(paths: Sequence[Path], preprocessing: Preprocessing) -> PictureSet:
    """Gather files, and whatever pictures stand in folders, in the order given.

    Args:
        paths: Files and folders.
        preprocessing: From a picture to an input.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: A folder holds no pictures.
    """
    if len(paths) == 1 and paths[0].is_dir() and any(map(_is_class_folder, paths[0].iterdir())):
        return class_folders(paths[0], preprocessing)
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"no file or folder {path}")
        found = _walk(path) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"{path} holds no pictures ({' '.join(_ENDINGS)})")
        files += found
    files = list(dict.fromkeys(files))
    root = Path(os.path.commonpath([file.absolute().parent for file in files]))
    return PictureSet(tuple(files), root, preprocessing)


def readable(pictures: PictureSet, *, strict: bool, show_progress: bool) -> PictureSet:
    """Decode every file once and leave out those that cannot be read, with a warning each.

    Every pass of a fit must see the same images, so damage has to be known beforehand.

    Args:
        pictures: The set.
        strict: Fail instead.
        show_progress: Show a progress bar.

    Raises:
        ValueError: A file is damaged, and ``strict``; or none, or none of a class, is left.
    """
    with ThreadPoolExecutor(_DECODERS) as pool:
        checks: Iterable[str] = pool.map(_fault, pictures.files)
        bar = tqdm(checks, "checking pictures", len(pictures), disable=not show_progress)
        faults = list(bar)
    damaged = [fault for fault in faults if fault]
    if damaged and strict:
        more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
        raise ValueError(f"{damaged[0]}{more}; repair or remove it, or leave out --strict")
    for fault in damaged:
        warn_user(f"{fault}; it is left out", SkippedImageWarning)
    kept = pictures.subset([i for i, fault in enumerate(faults) if not fault])
    if not len(kept):
        raise ValueError("no picture is left that can be read")
    empty = sorted(_folders_of(pictures) - _folders_of(kept)) if pictures.labels else []
    if empty:
        raise ValueError(f"no picture of {empty} is left that can be read")
    return kept


def _folders_of(pictures: PictureSet) -> set[str]:
    return {name.partition("/")[0] for name in pictures.names()}


def _fault(path: Path) -> str:
    try:
        open_picture(path)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return ""


def _is_class_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _walk(folder: Path) -> list[Path]:
    found = (Path(base) / name for base, _, names in os.walk(folder) for name in names)
    return sorted(p for p in found if p.suffix.lower() in _ENDINGS and not p.name.startswith("."))
