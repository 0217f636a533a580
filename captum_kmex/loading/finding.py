"""Pictures in folders by their endings, but for those that explanations were saved with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from captum_kmex.explanation import own_files

__all__ = ["ENDINGS", "Content", "Seen", "content_of"]

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


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
