"""Folders written in one step, which no kill can lose; what dead runs left is removed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from captum_kmex.files.workplace import discard_unfinished, workplace

__all__ = ["folder_written_whole", "repair"]

_NEW, _OLD = "content", "old"
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


@contextlib.contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Give an empty folder to fill, which replaces ``folder`` at the end, or not at all.

    A process that is killed at any moment leaves the old content or the new one; where the system
    cannot exchange two folders at once, the old one may stand beside, and the next call moves it
    back. What dead processes left is removed, never what a live one is writing.

    Args:
        folder: The folder; one that exists survives a failure.
    """
    folder = folder.resolve()  # of a link, what it leads to
    folder.parent.mkdir(parents=True, exist_ok=True)
    repair(folder)
    with workplace(folder) as place:
        new = place / _NEW
        new.mkdir()
        yield new
        _replace(folder, new, place / _OLD)


def repair(folder: Path) -> None:
    """Move back what a dead process had moved aside, and remove what it had not finished."""

    def move_back(left: Path) -> None:
        if (left / _OLD).exists() and not folder.exists():
            (left / _OLD).rename(folder)

    discard_unfinished(folder, move_back)


def _replace(folder: Path, new: Path, aside: Path) -> None:
    """Put a new folder in the place of another, which then stands in ``new`` or ``aside``."""
    if not folder.exists():
        new.rename(folder)
    elif not _exchanged(folder, new):
        folder.rename(aside)
        try:
            new.rename(folder)
        except BaseException:
            aside.rename(folder)
            raise


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; ``False`` where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    if exchange is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(exchange(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0)
