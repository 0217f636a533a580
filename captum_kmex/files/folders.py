"""Folders written in one step, which no kill can lose; what dead runs left is removed."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is known to be dead there, and nothing is removed
    fcntl = None  # type: ignore[assignment]

__all__ = ["folder_written_whole", "repair"]

_MARK = "[0-9a-f]" * 32
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


@contextlib.contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside ``folder`` to fill, which replaces it at the end, or not at all.

    A process that is killed at any moment leaves the old content or the new one; where the system
    cannot exchange two folders at once, the old one may stand beside, and the next call moves it
    back. What dead processes left is removed, never what a live one is writing.

    Args:
        folder: The folder; one that exists survives a failure.
    """
    folder = folder.resolve()  # of a link, what it leads to
    folder.parent.mkdir(parents=True, exist_ok=True)
    repair(folder)
    work, lock = _locked_folder(folder)
    try:
        yield work
        _replace(folder, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)  # after an exchange, the old content
        if lock is not None:
            os.close(lock)


def repair(folder: Path) -> None:
    """Move back what a dead process had moved aside, and remove what it had not finished."""
    beside = _beside(folder, _MARK)
    for old in sorted(folder.parent.glob(f"{beside.name}.old")):
        with _dead(old) as is_dead:
            if is_dead and not folder.exists():
                old.rename(folder)
            elif is_dead:
                shutil.rmtree(old, ignore_errors=True)
    for unfinished in folder.parent.glob(beside.name):
        with _dead(unfinished) as is_dead:
            if is_dead:
                shutil.rmtree(unfinished, ignore_errors=True)


def _beside(folder: Path, mark: str) -> Path:
    """Return a hidden name beside a folder; it is short whatever the folder's own length is."""
    name = hashlib.sha256(os.fsencode(folder.name)).hexdigest()[:32]
    return folder.with_name(f".{name}.{mark}")


def _locked_folder(folder: Path) -> tuple[Path, int | None]:
    """Make a folder and lock it; again, should a process that cleans up have been faster."""
    while True:
        work = _beside(folder, uuid.uuid4().hex)
        work.mkdir()
        descriptor = None
        try:
            descriptor = _opened(work)
            _lock(descriptor)
        except (BlockingIOError, FileNotFoundError):
            continue
        except OSError:  # no locks on this drive: nothing is known to be dead, nothing removed
            return work, descriptor
        if work.exists():
            return work, descriptor


def _opened(path: Path) -> int | None:
    return None if fcntl is None else os.open(path, os.O_RDONLY)


def _lock(descriptor: int | None) -> None:
    """Lock an open file or folder until it is closed.

    Raises:
        BlockingIOError: A live process holds the lock.
        OSError: There are no locks here.
    """
    if fcntl is not None and descriptor is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def _dead(path: Path) -> Iterator[bool]:
    """Give whether no process holds a path's lock, and hold it meanwhile."""
    descriptor = None
    try:
        try:
            descriptor = _opened(path)
            _lock(descriptor)
            is_dead = descriptor is not None
        except OSError:
            is_dead = False
        yield is_dead
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _replace(folder: Path, work: Path) -> None:
    """Put a finished folder in the place of another, which stands in ``work`` or is gone then."""
    if not folder.exists():
        work.rename(folder)
    elif not _exchanged(folder, work):
        with _dead(folder):  # its lock is held, so that nobody takes it for a dead run's
            old = work.with_name(f"{work.name}.old")
            folder.rename(old)
            try:
                work.rename(folder)
            except BaseException:
                old.rename(folder)
                raise
            shutil.rmtree(old, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; ``False`` where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    if exchange is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(exchange(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0)
