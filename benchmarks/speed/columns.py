"""Columns of the tables: a header, and how a row's cell is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.speed.results import Row

__all__ = ["Column", "cpu_time", "ratio", "value"]


@dataclass(frozen=True)
class Column:
    """A column: its header, and the text of a row's cell."""

    header: str
    text: Callable[[Row], str]


def ratio(header: str, over: str) -> Column:
    """Return the column of median and quartiles of the time over that of something else."""

    def text(row: Row) -> str:
        found = row.ratios.get(over)
        if found is None:
            return ""
        return f"{found['median']:.3g} ({found['low']:.3g} to {found['high']:.3g})"

    return Column(header, text)


def value(header: str, name: str, form: str) -> Column:
    """Return the column of a figure of this name, formatted."""
    return Column(header, lambda row: format(row.values[name], form) if name in row.values else "")


def cpu_time(header: str = "CPU time") -> Column:
    """Return the column of the median seconds."""

    def text(row: Row) -> str:
        seconds = row.seconds.get("subject", row.call)
        return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"

    return Column(header, text)
