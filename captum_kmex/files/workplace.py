"""Hidden, locked folders beside a file or folder, in which its next content is made."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from captum_kmex.files.locks import free_lock, take_lock

__all__ = ["discard_unfinished", "name_beside", "workplace"]

_LOCK = "lock"
_MARK = "[0-9a-f]" * 32
_LONGEST_NAME = 200  # bytes; file systems take 255, of which a mark needs some


@contextmanager
def workplace(path: Path) -> Iterator[Path]:
    """Make a hidden folder beside a path, and remove it with all that is in it at the end.

    It is locked: ``discard_unfinished`` tells by that whether its process is alive.

    Args:
        path: A file or folder, which need not exist.
    """
    place, lock = _locked_folder(path)
    try:
        yield place
    finally:
        free_lock(lock, place / _LOCK)
        shutil.rmtree(place, ignore_errors=True)


def _locked_folder(path: Path) -> tuple[Path, int]:
    """Make a hidden folder beside a path; return it and what frees its lock."""
    while True:
        place = name_beside(path, uuid.uuid4().hex)
        place.mkdir()
        with suppress(FileNotFoundError):  # discarded, before it was locked
            lock = take_lock(place / _LOCK)
            if lock is not None:
                return place, lock


def discard_unfinished(path: Path, rescue: Callable[[Path], object] | None = None) -> None:
    """Delete what processes that were killed while writing left beside a path.

    What a living process writes at the moment stays, and so does what cannot be deleted.

    Args:
        path: The file or folder.
        rescue: Takes out of each workplace what must not be lost.
    """
    pattern = glob.escape(name_beside(path, "").name) + _MARK
    for left in path.parent.glob(pattern):
        lock = None
        with suppress(OSError):
            if left.is_dir():
                lock = take_lock(left / _LOCK, unless_unknown=True)
            else:  # as release 0.1.0 left them
                left.unlink()
        if lock is not None:
            _discard(left, lock, rescue)


def _discard(left: Path, lock: int, rescue: Callable[[Path], object] | None) -> None:
    try:
        if rescue is not None:
            rescue(left)
    finally:
        free_lock(lock, left / _LOCK)
    with suppress(OSError):
        shutil.rmtree(left)


def name_beside(path: Path, mark: str) -> Path:
    """Return the path of a hidden file beside another, with that one's name and a mark."""
    name = path.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f".{name}.{mark}")
