"""Pictures on disk as a data set: folders of classes, single files, damaged ones left out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import overload

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from captum_kmex.exceptions import PixelDepthWarning, SkippedImageWarning, warn_user
from captum_kmex.loading.decoding import Check, check_picture, open_picture
from captum_kmex.loading.finding import ENDINGS, Content, content_of
from captum_kmex.loading.preprocessing import Preprocessing

__all__ = [
    "NamedPictures",
    "PictureSet",
    "class_folders",
    "find_pictures",
    "looked_at",
    "open_picture",
    "readable",
]

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
        x = self.preprocessing(open_picture(self.files[index], self.preprocessing))
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
        r"""Return the files' names in their folder, the same on every system.

        They are text that any encoding of Unicode holds: bytes of a name that are no UTF-8 are
        written as ``\xe9``.
        """
        names = (os.path.relpath(file, self.root) for file in self.files)
        return [_text(name.replace(os.sep, "/")) for name in names]

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


def class_folders(root: Path, preprocessing: Preprocessing) -> PictureSet:
    """Find pictures in the layout of torchvision's ``ImageFolder``: one folder a class.

    Explanations that were saved among them are no pictures.

    Args:
        root: The folder that holds the class folders.
        preprocessing: From a picture to an input.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It has no class folders, one of them no pictures, or pictures stand beside.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; give one with a folder of pictures a class")
    found = content_of(root)
    folders = [name for name, seen in found.folders.items() if seen.files or not seen.has_own]
    if not folders:
        raise ValueError(f"{root} holds no folders; give one with a folder of pictures a class")
    if found.beside:
        raise ValueError(
            f"{root} holds pictures ({found.beside[0].name}) beside its class folders "
            f"({folders[0]}); move them into the folder of their class, or away"
        )
    empty = [name for name in folders if not found.folders[name].files]
    if empty:
        raise ValueError(f"{root / empty[0]} holds no pictures ({' '.join(ENDINGS)})")
    return _labelled(root, found, preprocessing)


def find_pictures(paths: Sequence[Path], preprocessing: Preprocessing) -> PictureSet:
    """Gather files, and whatever pictures stand in folders, in the order given.

    Explanations that were saved among them are no pictures.

    Args:
        paths: Files and folders.
        preprocessing: From a picture to an input.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: A folder holds no pictures.
    """
    if len(paths) == 1 and paths[0].is_dir():
        found = content_of(paths[0])
        if any(seen.files for seen in found.folders.values()) and not found.beside:
            return _labelled(paths[0], found, preprocessing)
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"no file or folder {path}")
        added = content_of(path).all_files() if path.is_dir() else [path]
        if not added:
            raise ValueError(f"{path} holds no pictures ({' '.join(ENDINGS)})")
        files += added
    # without "..", which would lead out of the folder that the names are relative to
    unique: dict[str, Path] = {}
    for file in files:
        unique.setdefault(os.path.abspath(file), file)
    root = Path(os.path.commonpath([os.path.dirname(place) for place in unique]))
    return PictureSet(tuple(unique.values()), root, preprocessing)


def looked_at(pictures: PictureSet, *, show_progress: bool) -> list[Check]:
    """Decode every file once, and say of each what is wrong with it."""
    with ThreadPoolExecutor(_DECODERS) as pool:
        found: Iterable[Check] = pool.map(
            check_picture, pictures.files, repeat(pictures.preprocessing)
        )
        return list(tqdm(found, "checking pictures", len(pictures), disable=not show_progress))


def readable(
    pictures: PictureSet,
    *,
    strict: bool,
    show_progress: bool,
    checks: Sequence[Check] | None = None,
) -> PictureSet:
    """Decode every file once and leave out those that cannot be used, with a warning each.

    Every pass of a fit must see the same images, so damage has to be known beforehand.

    Args:
        pictures: The set.
        strict: Fail instead.
        show_progress: Show a progress bar.
        checks: What ``looked_at`` said of them, if they were decoded already.

    Raises:
        ValueError: A file is damaged, and ``strict``; or none, or none of a class, is left.
    """
    if checks is None:
        checks = looked_at(pictures, show_progress=show_progress)
    damaged = [check.fault for check in checks if check.fault]
    if damaged and strict:
        more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
        raise ValueError(f"{damaged[0]}{more}; repair or remove it, or leave out --strict")
    for fault in damaged:
        warn_user(f"{fault}; it is left out", SkippedImageWarning)
    kept = pictures.subset([i for i, check in enumerate(checks) if not check.fault])
    if not len(kept):
        raise ValueError("no picture is left that can be read")
    empty = sorted(_folders_of(pictures) - _folders_of(kept)) if pictures.labels else []
    if empty:
        raise ValueError(f"no picture of {empty} is left that can be read")
    _tell_depth(pictures, checks)
    return kept


def _tell_depth(pictures: PictureSet, checks: Sequence[Check]) -> None:
    """Warn once that pictures of more than 8 bits a pixel are scaled, and how."""
    deep = [(path, c.values) for path, c in zip(pictures.files, checks, strict=True) if c.values]
    if not deep:
        return
    path, (low, high) = deep[0]
    given = pictures.preprocessing.pixel_range
    how = (
        "each is scaled from its own least and largest value; give --pixel-range LOW,HIGH to "
        "scale all alike"
        if given is None
        else f"{given[0]:g} becomes black and {given[1]:g} white"
    )
    warn_user(
        f"{len(deep)} pictures hold more than 8 bits a pixel ({path}: {low:g} to {high:g}): {how}",
        PixelDepthWarning,
    )


def _folders_of(pictures: PictureSet) -> set[str]:
    return {name.partition("/")[0] for name in pictures.names()}


def _labelled(root: Path, found: Content, preprocessing: Preprocessing) -> PictureSet:
    """Return the pictures with their folders as classes."""
    folders = {name: seen.files for name, seen in found.folders.items() if seen.files}
    files = [file for members in folders.values() for file in members]
    labels = [label for label, members in enumerate(folders.values()) for _ in members]
    names = tuple(map(_text, folders))
    return PictureSet(tuple(files), root, preprocessing, tuple(labels), names)


def _text(name: str) -> str:
    """Return a file name whose bytes may be no UTF-8 as text."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
