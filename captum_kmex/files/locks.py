"""Lock files: one owner at a time, and the system frees them when it dies, however it dies."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["free_lock", "take_lock"]

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_held: set[int] = set()

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def take_lock(path: Path, *, unless_unknown: bool = False) -> int | None:
    """Lock a file, made if need be, against all other processes and threads.

    Args:
        path: The file; nothing is written to it.
        unless_unknown: Where the file system knows no locks, take it for held by another;
            by default it is taken for free.

    Returns:
        What to free it with, or ``None`` where another holds it.

    Raises:
        OSError: The file cannot be made.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            is_mine = _try(descriptor, unless_unknown)
            is_there = is_mine and _is_file_of(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if is_there:
            _held.add(descriptor)
            return descriptor
        os.close(descriptor)
        if not is_mine:
            return None


def free_lock(descriptor: int, path: Path) -> None:
    """Delete a lock file and let others have it; nothing in a fork, whose parent holds it."""
    if descriptor in _held:
        _held.discard(descriptor)
        with suppress(OSError):  # on Windows an open file cannot be deleted, and stays
            path.unlink()
        os.close(descriptor)


def _try(descriptor: int, unless_unknown: bool) -> bool:
    try:
        _lock(descriptor)
    except OSError as error:
        return error.errno in _UNSUPPORTED and not unless_unknown
    return True


def _is_file_of(path: Path, descriptor: int) -> bool:
    """Whether a file was not deleted, by its last owner, before it was locked."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _forget() -> None:
    """Close what a fork shares with its parent: a data loader's worker may outlive it."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
