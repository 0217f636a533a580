"""Files written in one step: an existing one survives a failure at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from captum_kmex.files.workplace import discard_unfinished, workplace

__all__ = ["discard_unfinished", "written_whole"]


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give an empty file beside ``path`` to write, which replaces it at the end, or not at all.

    It lies in a hidden folder, with whatever a library puts beside it.

    Args:
        path: The file; one that exists survives a failure at any moment.
    """
    with workplace(path) as place:
        beside = place / "file"
        beside.touch(exist_ok=False)
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
