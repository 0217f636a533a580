"""Ours against a rival, image by image: where we win, where we lose, where nobody can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.quality.cells import Cell
from benchmarks.quality.measure import Column, Measure
from benchmarks.quality.summary import Estimate, compare

__all__ = ["render_comparison"]


def render_comparison(
    cells: Sequence[Cell],
    subject: str,
    rival: str,
    measures: Mapping[str, Measure],
    titles: Mapping[str, str],
    n_bootstrap: int,
) -> str:
    """Return a table of the subject's scores less the rival's on the same images.

    Args:
        cells: What was run.
        subject: Name of a method.
        rival: Name of another.
        measures: The measures, in the order of the lines.
        titles: Titles of the tasks by name, in the order of the columns.
        n_bootstrap: Resamples behind an interval.

    Returns:
        Markdown, empty where nothing can be compared.
    """
    found = compare(cells, subject, rival, n_bootstrap)
    tasks = [task for task in titles if any(key[0] == task for key in found)]
    lines, tally = [], dict.fromkeys(("wins", "losses", "ties"), 0)
    for measure in measures.values():
        for key, column in measure.columns.items():
            estimates = [found.get((task, measure.name, key)) for task in tasks]
            if not column.better or not any(estimates):
                continue
            for estimate in filter(None, estimates):
                tally[_verdict(estimate, column)] += 1
            cells_of_line = " | ".join(_cell(estimate, column) for estimate in estimates)
            lines.append(f"| {measure.title}: {column.title} | {cells_of_line} |")
    if not lines:
        return ""
    head = [
        f"### {subject} less {rival}",
        "",
        ", ".join(f"{count} {verdict}" for verdict, count in tally.items()) + ".",
        "",
        f"| | {' | '.join(titles[task] for task in tasks)} |",
        "|" + "---|" * (len(tasks) + 1),
    ]
    return "\n".join(head + lines)


def _verdict(estimate: Estimate, column: Column) -> str:
    if estimate.low <= 0 <= estimate.high:
        return "ties"
    return "wins" if (estimate.mean > 0) == (column.better == "high") else "losses"


def _cell(estimate: Estimate | None, column: Column) -> str:
    if estimate is None:
        return ""
    scale, digits = (100, 1) if column.percent else (1, 3)
    mean, low, high = (
        f"{x * scale:+.{digits}f}" for x in (estimate.mean, estimate.low, estimate.high)
    )
    text = f"{mean} ({low} to {high})"
    verdict = _verdict(estimate, column)
    return {"wins": f"**{text}** win", "losses": f"{text} *loss*", "ties": text}[verdict]
