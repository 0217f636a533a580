"""Write the tables of all groups as one Markdown page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.page import figure, join, table
from benchmarks.speed.columns import Column
from benchmarks.speed.groups import GROUPS, Group
from benchmarks.speed.results import Results, Row

__all__ = ["render"]

_ITSELF = ("against itself", "against themselves")
_BASES = ("itself", "scikit-learn, n_init=1", "forward", "alone")
_INTRODUCTION = """# Speed and memory

Every figure stands beside its rival's, from the same run on the same input, and every run asserts
its results: maps that add up to the logit, labels of a brute-force search, gradients recomputed
by plain autograd, inertias in float64. Made by

```sh
pip install ".[test]" && python -m benchmarks speed
```

which takes an hour or two on one core; `--group tail` runs one group, `--resume` those
without results. `pytest -m bench` asserts the same on small shapes and judges no time.

**How it is timed.** One thread, CPU time of the process (`time.process_time`); by the clock where
a table says so. What is compared
runs in the same round, in alternating order, and a ratio is taken in every round. Cells show the
median ratio and, in brackets, its quartiles over rounds. Under a table of times stands the ratio
of something to itself: a difference smaller than its spread means nothing. Ratios belong to the
processor named; several threads, a GPU or another processor would give others."""


def render(found: Mapping[str, Results]) -> str:
    """Return the page; groups without results say why."""
    sections = [_section(name, group, found[name]) for name, group in GROUPS.items()]
    return join([_INTRODUCTION, *sections]) + "\n"


def _section(name: str, group: Group, results: Results) -> str:
    head = f"## {group.title}\n\n{group.about}"
    if results.failure:
        return join([head, f"No results: {results.failure}."])
    image = figure(group.caption, f"images/{group.image}") if group.image else ""
    tables = [
        join([f"### {title[0].upper()}{title[1:]}", _table(group, rows)])
        for title, rows in results.tables.items()
    ]
    command = f"python -m benchmarks speed --group {name}"
    return join([head, image, *tables, f"`{command}`: {'; '.join(results.facts)}."])


def _table(group: Group, rows: list[Row]) -> str:
    """Return a table, and the ratio of the same thing to itself."""
    shown = [row for row in rows if not row.name.endswith(_ITSELF)]
    done = [row for row in shown if not row.reason]
    filled = [column for column in group.columns if any(map(column.text, done))]
    heads = [group.row_header, *(column.header for column in filled)]
    lines = [[row.name, *_cells(row, filled)] for row in shown]
    same = [_itself(row) for row in rows if row.name.endswith(_ITSELF)]
    return join([table(heads, lines, rule="---:"), *same])


def _cells(row: Row, columns: Sequence[Column]) -> list[str]:
    if row.reason:
        return [row.reason, *[""] * (len(columns) - 1)]
    return [column.text(row) for column in columns]


def _itself(row: Row) -> str:
    if row.reason:
        return f"{row.name}: {row.reason}."
    same = next(row.ratios[name] for name in _BASES if name in row.ratios)
    spread = f"{same['low']:.3f} to {same['high']:.3f}"
    return f"{row.name}: {same['median']:.3f} ({spread}), {int(same['rounds'])} rounds."
