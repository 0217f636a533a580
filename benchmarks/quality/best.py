"""Ours beside the best of the others, in every column and at two costs; losses first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.page import join, table
from benchmarks.quality.glance import COLUMNS, is_few
from benchmarks.quality.measure import Column, Measure
from benchmarks.quality.method import CONTROLS, OURS
from benchmarks.quality.summary import Estimate, Row
from captum_kmex.text.counts import counted

__all__ = ["CHEAP", "render_best"]

CHEAP = 5  # forward passes' time that a cheap map may take
_ROUND = 10  # costs above are shown in whole passes
_ALLOWED = {CHEAP: f"at most {CHEAP} passes", math.inf: "any cost"}
_SIDES = ("ours", "others")
_SAME = "the same"
_VERDICTS = {"loss": "*loss*", "tie": "tie", "win": "**win**"}


@dataclass(frozen=True)
class _Entry:
    """A method in one column of one task's table."""

    method: str
    is_ours: bool
    estimate: Estimate
    cost: float  # forward passes' time, infinite where it was not measured


@dataclass(frozen=True)
class _Line:
    """A line of a table, and what its pairs count as, by the costs that were allowed."""

    cells: list[str]
    verdicts: dict[float, str]

    @property
    def place(self) -> tuple[int, int]:
        """What to sort by: losses first, wins last."""
        found = list(self.verdicts.values())
        return -found.count("loss"), found.count("win")


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
    known = [row for row in rows if families.get(row.method, CONTROLS) != CONTROLS]
    costs = {
        (row.task, row.method): row.estimates["seconds"].mean
        for row in known
        if row.measure == "cost" and "seconds" in row.estimates
    }
    entries: dict[tuple[str, str, str], list[_Entry]] = {}  # by task, measure and column
    for row in known:
        for key, estimate in row.estimates.items():
            cost = costs.get((row.task, row.method), math.inf)
            entry = _Entry(row.method, families[row.method] == OURS, estimate, cost)
            entries.setdefault((row.task, row.measure, key), []).append(entry)
    columns = {title: place for title, place in COLUMNS.items() if place[0] != "cost"}
    tables, counts = [], {cost: Counter[str]() for cost in _ALLOWED}
    for task, name in titles.items():
        lines = [
            _line(title, measures[measure].columns[key], entries.get((task, measure, key), []))
            for title, (measure, key) in columns.items()
        ]
        lines = sorted((line for line in lines if line.verdicts), key=lambda line: line.place)
        for line in lines:
            for cost, verdict in line.verdicts.items():
                counts[cost][verdict] += 1
        if lines:
            heads = [f"{side}, {words}" for words in _ALLOWED.values() for side in _SIDES]
            tables.append(f"### {name}\n\n{table(['', *heads], [line.cells for line in lines])}")
    told = [
        f"{words}: {', '.join(counted(counts[cost][name], name) for name in _VERDICTS)}"
        for cost, words in _ALLOWED.items()
    ]
    return join(["; ".join(told).capitalize() + ".", *tables]) if tables else ""


def _line(title: str, column: Column, entries: list[_Entry]) -> _Line:
    """Return a column's line, without verdicts where one side has no value."""
    most = max((entry.estimate.n_values for entry in entries), default=0)
    entries = [entry for entry in entries if not is_few(entry.estimate, most)]
    line = _Line([f"{title} {'↑' if column.better == 'high' else '↓'}"], {})
    shown: list[str] = []
    for allowed in _ALLOWED:
        able = [entry for entry in entries if entry.cost <= allowed]
        ours, others = ([e for e in able if e.is_ours is side] for side in (True, False))
        if not ours or not others:
            line.cells.extend(["", ""])
            continue
        best = _best(ours, column), _best(others, column)
        line.verdicts[allowed] = _verdict(best[0].estimate, best[1].estimate, column)
        texts = [_cell(entry, column) for entry in best]
        own, theirs = (_SAME if text in shown else text for text in texts)
        shown += texts
        line.cells.extend([own, f"{theirs}<br>{_VERDICTS[line.verdicts[allowed]]}"])
    return line


def _best(entries: list[_Entry], column: Column) -> _Entry:
    return (max if column.better == "high" else min)(entries, key=lambda e: e.estimate.mean)


def _verdict(ours: Estimate, other: Estimate, column: Column) -> str:
    """Return what it counts as: a tie where the intervals meet."""
    if ours.low <= other.high and other.low <= ours.high:
        return "tie"
    return "win" if (ours.mean > other.mean) is (column.better == "high") else "loss"


def _cell(entry: _Entry, column: Column) -> str:
    scale, digits = (100, 1) if column.percent else (1, 2)
    ends = entry.estimate.mean, entry.estimate.low, entry.estimate.high
    mean, low, high = (f"{x * scale + 0.0:.{digits}f}" for x in ends)
    within = "" if low == high else f" ({low}–{high})"
    cost = "" if entry.cost == math.inf else f", ×{entry.cost:,.{1 if entry.cost < _ROUND else 0}f}"
    return f"{entry.method}{cost}<br>{mean}{within}"
