"""The report: a table for each measure and task, Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from benchmarks.quality.measure import Column, Measure
from benchmarks.quality.method import Method
from benchmarks.quality.summary import Estimate, Row

__all__ = ["render"]


def render(
    rows: Iterable[Row],
    measures: Mapping[str, Measure],
    methods: Mapping[str, Callable[[], Method]],
    titles: Mapping[str, str],
    figures: Mapping[str, Path],
    head: str,
) -> str:
    """Return the page.

    Args:
        rows: What was found.
        measures: The measures, in the order of their sections.
        methods: What makes the methods, in the order of the lines.
        titles: Titles of the tasks by name, in the order of the tables.
        figures: Files named by task and measure, relative to the page.
        head: What stands before the first table.
    """
    found = {(row.measure, row.task, row.method): row for row in rows}
    families = {name: make().family for name, make in methods.items()}
    parts = [head]
    for measure in measures.values():
        tables = []
        for task, title in titles.items():
            lines = [found[key] for name in methods if (key := (measure.name, task, name)) in found]
            if any(row.estimates for row in lines):
                tables.append(_table(measure, title, lines, families))
                if figure := figures.get(f"{task}-{measure.name}"):
                    tables.append(f"![{measure.title}, {title}]({figure})")
        if tables:
            parts.append("\n\n".join([f"## {measure.title}", measure.text, *tables]))
    return "\n\n".join(parts) + "\n"


def _table(measure: Measure, title: str, rows: list[Row], families: Mapping[str, str]) -> str:
    columns = measure.columns
    marks = {"high": " ↑", "low": " ↓", "": ""}
    heads = [f"{c.title}{marks[c.better]}" for c in columns.values()]
    best = {key: _best(column, key, rows) for key, column in columns.items()}
    lines = [
        f"### {title}",
        "",
        f"| method | family | {' | '.join(heads)} | images × seeds |",
        "|" + "---|" * (len(heads) + 3),
    ]
    missing: dict[str, list[str]] = {}
    for row in rows:
        if not row.estimates:
            missing.setdefault(row.reason, []).append(row.method)
            continue
        cells = [
            _cell(row.estimates.get(key), column, row.method == best[key])
            for key, column in columns.items()
        ]
        sizes = {(e.n_values, e.n_seeds) for e in row.estimates.values()}
        n_values, n_seeds = max(sizes)
        method = f"{row.method}"
        lines.append(
            f"| {method} | {families[method]} | {' | '.join(cells)} | {n_values} × {n_seeds} |"
        )
    if missing:
        lines += ["", "Not in the table:", ""]
        lines += [f"- {', '.join(names)}: {reason}" for reason, names in missing.items()]
    return "\n".join(lines)


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
    mean, low, high = (f"{x * scale:.{digits}f}" for x in _ends(estimate))
    text = f"**{mean}**" if is_best else mean
    return text if low == high else f"{text} ({low}–{high})"


def _ends(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.mean, estimate.low, estimate.high
