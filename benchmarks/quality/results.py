"""The results of a preset in one JSON file: what a run found, and rows renewed later."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.quality.cells import Cell
from benchmarks.quality.comparison import ALL_PAIRS
from benchmarks.quality.plugins import find_tasks
from benchmarks.quality.presets import Preset
from benchmarks.quality.summary import Estimate, Row, compare, summarise
from benchmarks.timing import environment

__all__ = ["Comparison", "Results", "TaskFacts"]


@dataclass(frozen=True)
class TaskFacts:
    """What the page says about a task: its title, and what to know about it."""

    title: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The subject's scores less the rival's on the same images, in one column of a measure."""

    subject: str
    rival: str
    task: str
    measure: str
    column: str
    estimate: Estimate


@dataclass(frozen=True)
class Results:
    """What is known of a preset.

    Attributes:
        preset: Sizes of the run.
        environment: Threads and versions of the run.
        tasks: The tasks that were run, by name.
        absent: Why others were not, by name.
        rows: Every method's line in every table.
        comparisons: The differences of the pairs that the page compares.
        later: What was renewed after the run: a note for the page, and the versions.
    """

    preset: dict[str, Any]
    environment: dict[str, Any]
    tasks: dict[str, TaskFacts]
    absent: dict[str, str]
    rows: list[Row]
    comparisons: list[Comparison]
    later: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of_run(cls, folder: Path, preset: Preset) -> Results:
        """Read the cells of a run's folder and summarise them."""
        cells = [Cell.load(path) for path in sorted(folder.glob("*/*.cell.json"))]
        about = {p.parent.name: json.loads(p.read_text()) for p in folder.glob("*/task.json")}
        sizes = json.loads(json.dumps(asdict(preset)))  # as they are read again
        absent = {p.parent.name: p.read_text() for p in folder.glob("*/unavailable.txt")}
        rows = summarise(cells, preset.bootstrap)
        return cls(sizes, environment(), _facts(about), absent, rows, _compared(cells, preset))

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read a file that ``save`` wrote."""
        content = json.loads(path.read_text())
        return cls(
            content["preset"],
            content["environment"],
            _facts(content["tasks"]),
            content["absent"],
            [_row(row) for row in content["rows"]],
            [_comparison(found) for found in content["compared"]],
            content["made later"],
        )

    def save(self, path: Path) -> None:
        """Write the file."""
        content = {
            "preset": self.preset,
            "environment": self.environment,
            "tasks": {name: asdict(facts) for name, facts in self.tasks.items()},
            "absent": self.absent,
            "rows": [asdict(row) for row in self.rows],
            "compared": [asdict(comparison) for comparison in self.comparisons],
            "made later": self.later,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")

    def renewed(self, newer: Results) -> Results:
        """Return these results with what a later run found in place of the same rows.

        Raises:
            SystemExit: The later run is of other sizes.
        """
        if newer.preset != self.preset:
            raise SystemExit(
                f"the results are of preset {self.preset}, the run is of {newer.preset}; pass "
                "another --results"
            )
        rows = {(row.task, row.method, row.measure): row for row in self.rows}
        changed = [
            r for r in newer.rows if r.estimates and rows.get((r.task, r.method, r.measure)) != r
        ]
        rows |= {(row.task, row.method, row.measure): row for row in newer.rows}
        compared = {_key(c): c for c in (*self.comparisons, *newer.comparisons)}
        tasks = self.tasks | newer.tasks
        return replace(
            self,
            tasks={name: tasks[name] for name in find_tasks() if name in tasks},
            absent={k: v for k, v in (self.absent | newer.absent).items() if k not in tasks},
            rows=list(rows.values()),
            comparisons=list(compared.values()),
            later=self.later + _notes(changed, rows.values(), tasks, newer.environment),
        )


def _facts(about: dict[str, dict[str, Any]]) -> dict[str, TaskFacts]:
    names = [name for name in find_tasks() if name in about]
    return {name: TaskFacts(about[name]["title"], tuple(about[name]["notes"])) for name in names}


def _row(found: dict[str, Any]) -> Row:
    estimates = {key: Estimate(**estimate) for key, estimate in found["estimates"].items()}
    return Row(**(found | {"estimates": estimates}))


def _comparison(found: dict[str, Any]) -> Comparison:
    return Comparison(**(found | {"estimate": Estimate(**found["estimate"])}))


def _compared(cells: Sequence[Cell], preset: Preset) -> list[Comparison]:
    return [
        Comparison(subject, rival, *key, estimate)
        for subject, rival in ALL_PAIRS
        for key, estimate in compare(cells, subject, rival, preset.bootstrap).items()
    ]


def _key(found: Comparison) -> tuple[str, str, str, str, str]:
    return found.subject, found.rival, found.task, found.measure, found.column


def _notes(
    changed: Sequence[Row],
    rows: Collection[Row],
    tasks: dict[str, TaskFacts],
    made_in: dict[str, Any],
) -> list[dict[str, Any]]:
    """Return a note on each task's rows that a later run changed."""
    notes = []
    for task in dict.fromkeys(row.task for row in changed):
        own = [row for row in changed if row.task == task]
        old = [r for r in rows if r.task == task and r.estimates and r not in own]
        kept = {row.measure for row in old}
        new = sorted({row.measure for row in own} - kept)
        if not kept:
            parts = ["all rows were run later than those of other tasks"]
        else:
            parts = [_new_tables(new)] if new else []
            parts += _renewed_rows([row for row in own if row.measure in kept])
        for what in parts:
            text = f"{tasks[task].title}: {what}, with torch {made_in['versions']['torch']}"
            notes.append({"note": text, "versions": made_in["versions"]})
    return notes


def _new_tables(measures: Sequence[str]) -> str:
    return f"all rows of {', '.join(measures)} were run later than the other tables"


def _renewed_rows(rows: Sequence[Row]) -> list[str]:
    methods, measures = (sorted({getattr(r, key) for r in rows}) for key in ("method", "measure"))
    names = ", ".join(f"`{method}`" for method in methods)
    verb = "was" if len(methods) == 1 else "were"
    what = f"{names} ({', '.join(measures)}) {verb} run later than the other rows"
    return [what] if rows else []
