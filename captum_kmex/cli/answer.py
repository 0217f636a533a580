"""What a command answers, for people and for programs, and what it says on the way."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from captum_kmex.text.plain import printable

__all__ = ["Answer", "say", "table", "write"]


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
    """Write a line to standard error, unless quiet; control characters are written out."""
    if not quiet:
        with contextlib.suppress(OSError):  # a full disk behind it must not cost the work
            write(sys.stderr, f"{printable(text)}\n")


def write(stream: TextIO, text: str) -> None:
    """Write text to a stream; what its encoding lacks is written out.

    Raises:
        OSError: The stream is closed or full.
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def table(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as text, columns aligned; control characters are written out."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)
