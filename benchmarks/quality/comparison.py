"""Ours against a rival, image by image: where we win, where we lose, where nobody can tell."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.page import bold_if, join, table
from benchmarks.quality.measure import Column, Measure
from benchmarks.quality.summary import Estimate
from captum_kmex.text.counts import counted

__all__ = ["ALL_PAIRS", "CONTROLS_BESIDE", "PAIRS", "render_comparison"]

PAIRS = (
    ("B234 unfitted", "Grad-CAM"),
    ("B234 unfitted", "Permuted B234 segments + CAM"),
    ("B234 unfitted", "SLIC 100 + CAM"),
    ("B234 fitted", "Grad-CAM"),
)
# what the figure of faithfulness against cost shows besides; the page has no tables of them
_BY_COST = (
    "B234 measured, half", "B234 measured, adaptive", "B234 measured",
    "B234 measured, two layers", "EpsilonPlusFlat",
    "Integrated Gradients", "KernelShap on superpixels", "RISE, 100 masks", "Occlusion",
    "FinerCAM", "RefineCAM", "ShapleyCAM", "Recipro-CAM", "ShapBPT",
)  # fmt: skip
CONTROLS_BESIDE = (  # in the table beside it
    "Permuted B234 segments + CAM", "SLIC 100 + CAM", "DINOv2 segments + CAM",
)  # fmt: skip
ALL_PAIRS = (*PAIRS, *((method, "Grad-CAM") for method in (*_BY_COST, *CONTROLS_BESIDE)))


def render_comparison(
    found: Mapping[tuple[str, str, str], Estimate],
    subject: str,
    rival: str,
    measures: Mapping[str, Measure],
    titles: Mapping[str, str],
) -> str:
    """Return a table of the subject's scores less the rival's on the same images.

    Args:
        found: The differences by task, measure and column.
        subject: Name of a method.
        rival: Name of another.
        measures: The measures, in the order of the lines.
        titles: Titles of the tasks by name, in the order of the columns.

    Returns:
        Markdown, empty where nothing can be compared.
    """
    tasks = [task for task in titles if any(key[0] == task for key in found)]
    lines, tally = [], dict.fromkeys(("win", "loss", "tie"), 0)
    for measure in measures.values():
        for key, column in measure.columns.items():
            estimates = [found.get((task, measure.name, key)) for task in tasks]
            if not column.better or not any(estimates):
                continue
            for estimate in filter(None, estimates):
                tally[_verdict(estimate, column)] += 1
            cells = [_cell(estimate, column) for estimate in estimates]
            lines.append([f"{measure.title}: {column.title}", *cells])
    if not lines:
        return ""
    counts = ", ".join(counted(count, verdict) for verdict, count in tally.items())
    heads = ["", *(titles[task] for task in tasks)]
    return join([f"## {subject} less {rival}", f"{counts}.", table(heads, lines)])


def _verdict(estimate: Estimate, column: Column) -> str:
    if estimate.low <= 0 <= estimate.high:
        return "tie"
    return "win" if (estimate.mean > 0) == (column.better == "high") else "loss"


def _cell(estimate: Estimate | None, column: Column) -> str:
    if estimate is None:
        return ""
    scale, digits = (100, 1) if column.percent else (1, 3)
    mean, low, high = (
        f"{x * scale:+.{digits}f}" for x in (estimate.mean, estimate.low, estimate.high)
    )
    text = f"{mean} ({low} to {high})"
    verdict = _verdict(estimate, column)
    mark = {"win": " win", "loss": " *loss*", "tie": ""}[verdict]
    return bold_if(verdict == "win", text) + mark
