"""What a command answers, for people and for programs, and what it says on the way."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Answer", "say", "table"]


@dataclass(frozen=True)
class Answer:
    """The result of a command.

    Attributes:
        data: For ``--json``, the only thing on standard output then.
        text: The same for people.
    """

    data: Mapping[str, object]
    text: str


def say(text: str, *, quiet: bool) -> None:
    """Write a line to standard error, unless quiet."""
    if not quiet:
        sys.stderr.write(f"{text}\n")


def table(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as text, columns aligned."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)
