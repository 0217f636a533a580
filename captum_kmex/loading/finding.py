"""Pictures in folders by their endings, but for those that explanations were saved with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from captum_kmex.explanation import own_files

__all__ = ["ENDINGS", "UNREAD", "Content", "Seen", "content_of", "unread_in"]

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# pictures too, but not taken from folders: of some Pillow reads a part, of others nothing
_FIRST_ONLY = "is not taken from a folder; name the file itself to have its first picture read"
_BY_NAME = "is not taken from a folder; name the file itself"
_CONVERT = "cannot be read; save it as JPEG or PNG"
UNREAD = {
    ".gif": _FIRST_ONLY,
    ".avif": _BY_NAME,
    ".jp2": _BY_NAME,
    **dict.fromkeys((".heic", ".heif", ".jxl", ".svg", ".psd"), _CONVERT),
    **dict.fromkeys((".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf"), _CONVERT),
}


@dataclass(frozen=True)
class Seen:
    """Pictures of a folder and all below it, sorted; and whether explanations are there."""

    files: list[Path]
    has_own: bool


@dataclass(frozen=True)
class Content:
    """The pictures directly in a folder, and those of each folder in it."""

    beside: list[Path]
    folders: dict[str, Seen]

    def all_files(self) -> list[Path]:
        """Return all pictures, sorted."""
        return sorted([*self.beside, *(f for seen in self.folders.values() for f in seen.files)])


def content_of(root: Path) -> Content:
    """Look through a folder; hidden ones and saved explanations are passed over."""
    entries = sorted(root.iterdir())
    folders = [p for p in entries if p.is_dir() and not p.name.startswith(".")]
    names = [p.name for p in entries if not p.is_dir()]
    return Content(_pictures(root, names).files, {p.name: _walk(p) for p in folders})


def unread_in(root: Path) -> dict[Path, str]:
    """Return the pictures of a folder and all below it that are not taken, each with why."""
    found = {}
    for base, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            kind = Path(name).suffix.lower()
            if kind in UNREAD and not name.startswith("."):
                found[Path(base, name)] = f"{kind[1:].upper()} {UNREAD[kind]}"
    return found


def _walk(root: Path) -> Seen:
    seen = []
    for base, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        seen.append(_pictures(Path(base), names))
    files = sorted(file for part in seen for file in part.files)
    return Seen(files, any(part.has_own for part in seen))


def _pictures(folder: Path, names: Sequence[str]) -> Seen:
    """Return those of a folder's files that are pictures by their ending, and not our own."""
    own = own_files(folder)
    found = [n for n in names if Path(n).suffix.lower() in ENDINGS and not n.startswith(".")]
    return Seen(sorted(folder / name for name in found if name not in own), bool(own))
