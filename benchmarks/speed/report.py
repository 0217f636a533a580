"""Write the tables of all groups as one Markdown page."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.speed.groups import GROUPS, Group
from benchmarks.speed.results import Results, Row

__all__ = ["render"]

_ITSELF = ("against itself", "against themselves")
_BASES = ("itself", "scikit-learn, n_init=1", "forward")
_INTRODUCTION = """# Speed and memory

Every figure stands beside its rival's, from the same run on the same input, and every run asserts
its results: maps that add up to the logit, labels of a brute-force search, gradients recomputed
by plain autograd, inertias in float64. Made by

```sh
pip install ".[test]" && python -m benchmarks.speed.command
```

which takes about half an hour on one core; `--group tail` runs one group, `--resume` those
without results. `pytest benchmarks` asserts the same on small shapes and judges no time.

**How it is timed.** One thread, CPU time of the process (`time.process_time`). What is compared
runs in the same round, in alternating order, and a ratio is taken in every round. Cells show the
median ratio and, in brackets, its quartiles over rounds. Under a table of times stands the ratio
of something to itself: a difference smaller than its spread means nothing. Ratios belong to the
processor named; several threads, a GPU or another processor would give others.
"""


def render(found: Mapping[str, Results]) -> str:
    """Return the page; groups without results say why."""
    sections = [_section(name, group, found[name]) for name, group in GROUPS.items()]
    return "\n".join([_INTRODUCTION, *sections])


def _section(name: str, group: Group, results: Results) -> str:
    lines = [f"## {group.title}", "", group.about, ""]
    if results.failure:
        return "\n".join([*lines, f"No results: {results.failure}.", ""])
    if group.image:
        lines += [f"![{group.caption}](images/{group.image})", ""]
    for title, rows in results.tables.items():
        lines += [f"### {title[0].upper()}{title[1:]}", "", *_table(group, rows), ""]
    command = f"python -m benchmarks.speed.command --group {name}"
    return "\n".join([*lines, f"`{command}`: {'; '.join(results.facts)}.", ""])


def _table(group: Group, rows: list[Row]) -> list[str]:
    """Return the lines of a table and the ratio of the same thing to itself."""
    shown = [row for row in rows if not row.name.endswith(_ITSELF)]
    done = [row for row in shown if not row.reason]
    filled = [column for column in group.columns if any(map(column.text, done))]
    lines = [
        f"| {' | '.join([group.row_header, *(column.header for column in filled)])} |",
        f"|---|{'---:|' * len(filled)}",
    ]
    for row in shown:
        if row.reason:
            lines.append(f"| {row.name} | {row.reason} |{' |' * (len(filled) - 1)}")
        else:
            cells = [column.text(row) or "" for column in filled]
            lines.append(f"| {' | '.join([row.name, *cells])} |")
    for row in rows:
        if row.name.endswith(_ITSELF):
            lines += ["", _itself(row)]
    return lines


def _itself(row: Row) -> str:
    if row.reason:
        return f"{row.name}: {row.reason}."
    same = next(row.ratios[name] for name in _BASES if name in row.ratios)
    spread = f"{same['low']:.3f} to {same['high']:.3f}"
    return f"{row.name}: {same['median']:.3f} ({spread}), {int(same['rounds'])} rounds."
