"""The tables of a task's page: one for each measure, every method a line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from benchmarks.page import bold_if, figure, join, table
from benchmarks.quality.measure import Column, Measure
from benchmarks.quality.method import Method
from benchmarks.quality.summary import Estimate, Row

__all__ = ["render_tables"]

_NOT_RUN = "was not run for this table"


def render_tables(
    rows: Iterable[Row],
    measures: Mapping[str, Measure],
    methods: Mapping[str, Callable[[], Method]],
    figures: Mapping[str, Path],
) -> str:
    """Return a section for each measure.

    Args:
        rows: What was found on one task.
        measures: The measures, in the order of their sections.
        methods: What makes the methods, in the order of the lines.
        figures: Files by measure, relative to the page.
    """
    found = {(row.measure, row.method): row for row in rows}
    asked = {method for _, method in found}
    families = {name: make().family for name, make in methods.items()}
    sections = []
    for measure in measures.values():
        lines = [found[key] for name in methods if (key := (measure.name, name)) in found]
        if any(row.estimates for row in lines):
            known = {row.method for row in lines}
            left = [name for name in methods if name in asked - known]
            lines += [Row("", name, measure.name, {}, _NOT_RUN) for name in left]
            sections += [f"## {measure.title}", measure.text, _table(measure, lines, families)]
            if path := figures.get(measure.name):
                sections.append(figure(measure.title, path))
    return join(sections)


def _table(measure: Measure, rows: list[Row], families: Mapping[str, str]) -> str:
    columns = measure.columns
    marks = {"high": " ↑", "low": " ↓", "": ""}
    heads = [f"{c.title}{marks[c.better]}" for c in columns.values()]
    best = {key: _best(column, key, rows) for key, column in columns.items()}
    lines = []
    missing: dict[str, list[str]] = {}
    for row in rows:
        if not row.estimates:
            missing.setdefault(row.reason, []).append(row.method)
            continue
        cells = [
            _cell(row.estimates.get(key), column, row.method == best[key])
            for key, column in columns.items()
        ]
        n_values, n_seeds = max((e.n_values, e.n_seeds) for e in row.estimates.values())
        lines.append([row.method, families[row.method], *cells, f"{n_values} × {n_seeds}"])
    reasons = [f"- {', '.join(names)}: {reason}" for reason, names in missing.items()]
    return join(
        [
            table(["method", "family", *heads, "images × seeds"], lines),
            "Not in the table:" if reasons else "",
            "\n".join(reasons),
        ]
    )


def _best(column: Column, key: str, rows: list[Row]) -> str | None:
    """Return the method that leads a column, if either end is better."""
    means = {row.method: row.estimates[key].mean for row in rows if key in row.estimates}
    if not means or not column.better:
        return None
    return (max if column.better == "high" else min)(means, key=lambda name: means[name])


def _cell(estimate: Estimate | None, column: Column, is_best: bool) -> str:
    if estimate is None:
        return ""
    scale, digits = (100, 1) if column.percent else (1, 3)
    ends = estimate.mean, estimate.low, estimate.high
    mean, low, high = (f"{x * scale:.{digits}f}" for x in ends)
    text = bold_if(is_best, mean)
    return text if low == high else f"{text} ({low}–{high})"
