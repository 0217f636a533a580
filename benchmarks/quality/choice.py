"""Which map at which cost: how often no other is better for certain, from the cheapest up."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from benchmarks.page import bold_if, join, table
from benchmarks.quality.glance import COLUMNS, is_few
from benchmarks.quality.measure import Column, Measure
from benchmarks.quality.method import CONTROLS, OURS
from benchmarks.quality.summary import Estimate, Row

__all__ = ["render_choice"]

_OF_MAPS = {
    "localisation", "deletion", "other_fills", "road", "infidelity", "single_deletion",
    "minimal_pairs", "part_overlap", "object_removal",
}  # fmt: skip
_ENOUGH = 24  # images that a column must have, to tell maps apart
_MOST = 0.75  # of the columns a map must have values in, to be compared
_GROUPS = {"Photographs": ("natural", "photographs")}  # the rest stands in one table of its own
_REST = "Small pictures"

Place = tuple[str, str, str]  # task, measure, column


@dataclass(frozen=True)
class _Map:
    """How a method does in all columns of a group.

    Attributes:
        method: Its name.
        cost: Forward passes' time, the median of the tasks.
        tops: In how many columns nothing is better for certain.
        columns: In how many it has a value.
    """

    method: str
    cost: float
    tops: int
    columns: int

    @property
    def share(self) -> float:
        """Share of its columns in which nothing is better for certain."""
        return self.tops / self.columns


def render_choice(
    rows: Iterable[Row], measures: Mapping[str, Measure], families: Mapping[str, str]
) -> str:
    """Return a table a group of tasks: the maps that no cheaper one equals; or nothing.

    Args:
        rows: What was found.
        measures: The measures, for the columns' better ends.
        families: Family of each method.
    """
    rows = [row for row in rows if row.method in families]
    named = {task for tasks in _GROUPS.values() for task in tasks}
    groups = _GROUPS | {_REST: tuple({row.task for row in rows} - named)}
    tables = [
        _table(title, [row for row in rows if row.task in tasks], measures, families)
        for title, tasks in groups.items()
    ]
    return join(tables)


def _table(
    title: str, rows: list[Row], measures: Mapping[str, Measure], families: Mapping[str, str]
) -> str:
    found = _maps(rows, measures, families)
    front = _front([one for one in found if families[one.method] != CONTROLS])
    controls = [one for one in found if families[one.method] == CONTROLS]
    shown = front + sorted(controls, key=lambda one: -one.share)[:1]
    if not front:
        return ""
    lines = [
        [
            bold_if(families[one.method] == OURS, one.method)
            + " (control)" * (families[one.method] == CONTROLS),
            f"×{one.cost:,.{1 if one.cost < 10 else 0}f}",
            f"{one.tops} of {one.columns}",
        ]
        for one in shown
    ]
    return table([title, "cost", "nothing is better for certain in"], lines, rule="--:")


def _maps(
    rows: list[Row], measures: Mapping[str, Measure], families: Mapping[str, str]
) -> list[_Map]:
    places: dict[Place, dict[str, Estimate]] = {}
    costs: dict[str, list[float]] = {}
    wanted = {place for place in COLUMNS.values() if place[0] in _OF_MAPS}
    for row in rows:
        if row.measure == "cost" and "seconds" in row.estimates:
            costs.setdefault(row.method, []).append(row.estimates["seconds"].mean)
        for key, estimate in row.estimates.items():
            if (row.measure, key) in wanted:
                places.setdefault((row.task, row.measure, key), {})[row.method] = estimate
    counts = {place: max(e.n_values for e in found.values()) for place, found in places.items()}
    places = {
        place: {m: e for m, e in found.items() if not is_few(e, counts[place])}
        for place, found in places.items()
        if counts[place] >= _ENOUGH
    }
    tops = {
        place: _top(found, measures[place[1]].columns[place[2]], families)
        for place, found in places.items()
    }
    return [
        _Map(method, median(known), sum(method in top for top in tops.values()), count)
        for method, known in costs.items()
        if (count := sum(method in found for found in places.values())) >= _MOST * len(places)
        and count
    ]


def _top(
    found: Mapping[str, Estimate], column: Column, families: Mapping[str, str]
) -> Collection[str]:
    """Return the methods than which none but a control is better for certain."""
    sign = 1 if column.better == "high" else -1
    rivals = [e for m, e in found.items() if families[m] != CONTROLS]
    if not rivals:
        return ()
    best = max(rivals, key=lambda e: sign * e.mean)
    meets = {m for m, e in found.items() if e.low <= best.high and best.low <= e.high}
    return meets | {m for m, e in found.items() if sign * e.mean >= sign * best.mean}


def _front(maps: list[_Map]) -> list[_Map]:
    """Return the maps that are more often at the top than all that cost less, cheapest first."""
    front: list[_Map] = []
    for one in sorted(maps, key=lambda m: (m.cost, -m.share)):
        if not front or one.share > front[-1].share:
            front.append(one)
    return front
