"""Where a command writes: checked before the work, which may take hours."""

from __future__ import annotations

import hashlib
import itertools
import os
import unicodedata
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from captum_kmex.exceptions import UsageError

__all__ = ["check_file", "check_folder", "figure_name", "folder_names"]

_LONGEST = 200  # bytes of a folder's name; file systems allow 255 at most
_OURS = "index.json"  # beside the folders


def check_file(path: Path, option: str = "--output") -> None:
    """Check that a file can be written: there is no folder of its name, and its own takes files.

    Raises:
        UsageError: It cannot; says why.
    """
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder; give the name of a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"{option} {path} is no regular file; give another name")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"no folder {path.parent} for {option}; create it")
    _try_to_write(path, option)


def check_folder(path: Path, option: str = "--output") -> None:
    """Check that a folder, which need not exist, can be written to.

    Raises:
        UsageError: It cannot; says why.
    """
    place = path.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"{option} {path} is no folder: {place} is a file; give another name")
    _try_to_write(place / "index.json", option)


def _try_to_write(path: Path, option: str) -> None:
    """Make a file beside a path, named as one under way is, and remove it."""
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"{option} {path} cannot be written ({error.strerror}); give another place"
        ) from error


def folder_names(names: Sequence[str]) -> list[str]:
    """Return a folder for each picture, of its name without the ending, all different.

    Where two would share one, one would stand in another, or ``index.json`` would be in the way,
    the ending stays, and a number follows if that does not help. No name leads outside.

    Args:
        names: The pictures' names, with ``/`` between folders.
    """
    plain = [_inside(PurePosixPath(name).with_suffix("")) for name in names]
    whole = [_inside(PurePosixPath(name)) for name in names]
    uses = Counter(map(_key, plain))
    taken = {_key(str(parent)) for name in whole for parent in PurePosixPath(name).parents}
    taken.add(_OURS)
    found = []
    for short, long in zip(plain, whole, strict=True):
        numbered = (f"{long}-{i}" for i in itertools.count(2))
        choices = itertools.chain([short] if uses[_key(short)] == 1 else [], [long], numbered)
        name = next(choice for choice in choices if _key(choice) not in taken)
        taken.add(_key(name))
        found.append(name)
    return found


def figure_name(name: str) -> str:
    """Return the name of a picture's figure in its folder, without ending."""
    return _short(PurePosixPath(name).stem) or "picture"


def _key(name: str) -> str:
    """Return what is alike for names that some file systems do not tell apart."""
    return unicodedata.normalize("NFC", name).casefold()


def _inside(name: PurePosixPath) -> str:
    parts = (part for part in name.parts if part not in ("..", "/"))
    return "/".join(map(_short, parts)) or "picture"


def _short(part: str) -> str:
    """Return a name that any file system takes, the long ones with a digest at the end."""
    data = part.encode("utf-8", "surrogateescape")
    if len(data) <= _LONGEST:
        return part
    digest = hashlib.sha256(data).hexdigest()[:12]
    return f"{data[: _LONGEST - 13].decode('utf-8', 'ignore')}-{digest}"
