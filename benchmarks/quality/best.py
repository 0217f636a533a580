"""Ours beside the best of the others, in every column and at two costs; losses first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.page import join, table
from benchmarks.quality.glance import COLUMNS, is_few
from benchmarks.quality.measure import Column, Measure
from benchmarks.quality.summary import Estimate, Row

__all__ = ["CHEAP", "render_best"]

CHEAP = 5  # forward passes' time that a cheap map may take
_ROUND = 10  # costs above are shown in whole passes
_SAME = "the same"
_OURS, _CONTROLS = "captum_kmex", "Controls"
_VERDICTS = {"losses": "*loss*", "ties": "tie", "wins": "**win**"}


@dataclass(frozen=True)
class _Entry:
    """A method in one column of one task's table."""

    method: str
    estimate: Estimate
    cost: float | None  # forward passes' time

    @property
    def is_cheap(self) -> bool:
        return self.cost is not None and self.cost <= CHEAP


def render_best(
    rows: Iterable[Row],
    measures: Mapping[str, Measure],
    families: Mapping[str, str],
    titles: Mapping[str, str],
) -> str:
    """Return a tally and a table a task, the columns that we lose on top; or nothing.

    Args:
        rows: What was found.
        measures: The measures, for the columns' better ends and units.
        families: Family of each method.
        titles: Titles of the tasks by name, in the order of the tables.
    """
    known = [row for row in rows if families.get(row.method, _CONTROLS) != _CONTROLS]
    costs = {
        (row.task, row.method): row.estimates["seconds"].mean
        for row in known
        if row.measure == "cost" and "seconds" in row.estimates
    }
    tally = {True: Counter[str](), False: Counter[str]()}
    tables = []
    for task, title in titles.items():
        lines = []
        for heading, (measure, key) in COLUMNS.items():
            column = measures[measure].columns[key]
            found = [
                _Entry(row.method, row.estimates[key], costs.get((task, row.method)))
                for row in known
                if (row.task, row.measure) == (task, measure) and key in row.estimates
            ]
            if measure != "cost" and (line := _line(heading, column, found, families, tally)):
                lines.append(line)
        if lines:
            lines.sort(key=_n_won)
            heads = [f"at most {CHEAP} passes: ours", "best other", "any cost: ours", "best other"]
            tables.append(f"### {title}\n\n{table(['', *heads], lines)}")
    counts = [
        f"{cost}: {', '.join(f'{tally[is_cheap][name]} {name}' for name in _VERDICTS)}"
        for is_cheap, cost in ((True, f"at most {CHEAP} passes"), (False, "any cost"))
    ]
    return join(["; ".join(counts).capitalize() + ".", *tables]) if tables else ""


def _line(
    heading: str,
    column: Column,
    found: list[_Entry],
    families: Mapping[str, str],
    tally: Mapping[bool, Counter[str]],
) -> list[str]:
    """Return the cells of a column's line, or nothing where one side has no value."""
    most = max((entry.estimate.n_values for entry in found), default=0)
    found = [entry for entry in found if not is_few(entry.estimate, most)]
    cells: list[str] = []
    shown: list[str] = []
    for is_cheap in (True, False):
        able = [entry for entry in found if entry.is_cheap or not is_cheap]
        sides = [
            [entry for entry in able if (families[entry.method] == _OURS) is ours]
            for ours in (True, False)
        ]
        if not all(sides):
            cells += ["", ""]
            continue
        ours, other = (_best(side, column) for side in sides)
        verdict = _verdict(ours.estimate, other.estimate, column)
        tally[is_cheap][verdict] += 1
        texts = [_cell(ours, column), _cell(other, column)]
        own, theirs = (_SAME if text in shown else text for text in texts)
        shown += texts
        cells += [own, f"{theirs}<br>{_VERDICTS[verdict]}"]
    arrow = "↑" if column.better == "high" else "↓"
    return [f"{heading} {arrow}", *cells] if any(cells) else []


def _best(entries: list[_Entry], column: Column) -> _Entry:
    return (max if column.better == "high" else min)(entries, key=lambda e: e.estimate.mean)


def _verdict(ours: Estimate, other: Estimate, column: Column) -> str:
    """Return what it counts as: a tie where the intervals meet."""
    if ours.low <= other.high and other.low <= ours.high:
        return "ties"
    return "wins" if (ours.mean > other.mean) is (column.better == "high") else "losses"


def _cell(entry: _Entry, column: Column) -> str:
    scale, digits = (100, 1) if column.percent else (1, 2)
    ends = entry.estimate.mean, entry.estimate.low, entry.estimate.high
    mean, low, high = (f"{x * scale + 0.0:.{digits}f}" for x in ends)
    within = "" if low == high else f" ({low}–{high})"
    cost = "" if entry.cost is None else f", ×{entry.cost:,.{1 if entry.cost < _ROUND else 0}f}"
    return f"{entry.method}{cost}<br>{mean}{within}"


def _n_won(line: list[str]) -> tuple[int, int]:
    """Return what to sort lines by: losses first, then ties."""
    text = " ".join(line)
    return -text.count(_VERDICTS["losses"]), text.count(_VERDICTS["wins"])
