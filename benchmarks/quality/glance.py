"""A task's first table: the best-known methods by the measures most asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from benchmarks.page import bold_if, table
from benchmarks.quality.measure import Column, Measure
from benchmarks.quality.summary import Estimate, Row

__all__ = ["COLUMNS", "CONTROLS", "METHODS", "is_few", "render_glance"]

METHODS = (
    "B4 unfitted", "B234 unfitted", "B4 fitted", "B234 fitted", "KMEx (K=5)",
    "Grad-CAM", "Grad-CAM++", "LayerCAM", "Input x Gradient", "Integrated Gradients",
    "EpsilonPlusFlat", "Occlusion", "CRAFT (10 concepts)", "ICE (25 concepts)", "ACE",
    "TCAV (B234 prototypes)", "Part prototypes (K=5)", "ProtoPNet", "ProtoVAE",
)  # fmt: skip
CONTROLS = ("SLIC 100 + CAM", "Permuted B234 segments + CAM", "Random map")
_FEW = 8  # a mean of fewer than one in so many images is left out
COLUMNS = {
    "pointing game": ("localisation", "pointing"),
    "relevance rank": ("localisation", "rank"),
    "deletion": ("deletion", "deletion"),
    "insertion": ("deletion", "insertion"),
    "SRG": ("deletion", "between"),
    "deletion to blur": ("other_fills", "deletion"),
    "insertion from the mean": ("other_fills", "insertion"),
    "ROAD difference": ("road", "gap"),
    "MuFidelity": ("infidelity", "mufidelity"),
    "single deletion": ("single_deletion", "logit"),
    "minimal pairs": ("minimal_pairs", "hits"),
    "parts among the three foremost": ("object_removal", "controlled"),
    "outline of the parts": ("part_overlap", "map"),
    "accuracy": ("surrogate", "accuracy"),
    "segments over seeds (ARI)": ("seed_agreement", "segments"),
    "seconds / forward": ("cost", "seconds"),
}  # fmt: skip


def render_glance(rows: Iterable[Row], measures: Mapping[str, Measure]) -> str:
    """Return a table of means alone, or nothing; in bold what no other but a control beats.

    Args:
        rows: What was found on one task.
        measures: The measures, for the columns' better ends and units.
    """
    estimates: dict[str, dict[str, Estimate]] = {}  # by column, then method
    for row in rows:
        for title, (measure, key) in COLUMNS.items():
            if row.measure == measure and key in row.estimates:
                estimates.setdefault(title, {})[row.method] = row.estimates[key]
    columns = {title: measures[m].columns[k] for title, (m, k) in COLUMNS.items()}
    means = {title: _means(estimates[title]) for title in COLUMNS if title in estimates}
    return _table(means, columns) if means else ""


def is_few(estimate: Estimate, most: int) -> bool:
    """Return whether a mean is of so few images that it is left out, of so slow a method."""
    return estimate.n_values * _FEW < most


def _means(found: Mapping[str, Estimate]) -> dict[str, float]:
    most = max(estimate.n_values for estimate in found.values())
    return {name: e.mean for name, e in found.items() if not is_few(e, most)}


def _table(found: Mapping[str, Mapping[str, float]], columns: Mapping[str, Column]) -> str:
    arrows = {"high": "↑", "low": "↓", "": ""}
    heads = [f"{title} {arrows[columns[title].better]}" for title in found]
    lines = []
    for method in (*METHODS, *CONTROLS):
        cells = [_cell(found[title], method, columns[title]) for title in found]
        if any(cells):
            lines.append([method, *cells])
    return table(["", *heads], lines, rule="--:")


def _cell(means: Mapping[str, float], method: str, column: Column) -> str:
    if method not in means:
        return ""
    scale, digits = (100, 1) if column.percent else (1, 2)
    texts = {m: f"{round(scale * x, digits) + 0.0:.{digits}f}" for m, x in means.items()}
    rivals = [name for name in METHODS if name in means]
    if method not in rivals:
        return texts[method]
    best = (max if column.better == "high" else min)(rivals, key=lambda name: means[name])
    return bold_if(texts[method] == texts[best], texts[method])
