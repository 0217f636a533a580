"""How faithful maps are and what they cost: a figure and a table of the ``faithful`` preset."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.figures.style import BLUE, GREEN, ORANGE, PINK, SKY
from benchmarks.page import bold_if, table
from benchmarks.quality.comparison import CONTROLS_BESIDE
from benchmarks.quality.plugins import find_methods
from benchmarks.quality.results import Results
from benchmarks.quality.summary import Estimate

__all__ = ["COLUMNS", "RESULTS", "draw", "found_of", "known_passes", "main", "render", "rival_of"]

_ROOT = Path(__file__).parents[2]
RESULTS = _ROOT / "benchmarks" / "results" / "faithful.json"
_IMAGE = _ROOT / "docs" / "images" / "faithfulness_cost.png"
_RIVAL, _RIVAL_PASSES = "Grad-CAM", 1.5
_ALLOCATED = "B234 unfitted"
_PASSES = {_ALLOCATED: 1.2}  # measured; of the others their methods tell
_OURS = (
    _ALLOCATED, "B234 measured, half", "B234 measured, adaptive", "B234 measured",
    "B234 measured, two layers",
)  # fmt: skip
COLUMNS = {  # panel: measure, column, factor, so that up is better
    "deletion to the mean": ("deletion", "deletion", -100),
    "insertion from blur": ("deletion", "insertion", 100),
    "deletion to blur": ("other_fills", "deletion", -100),
    "insertion from the mean": ("other_fills", "insertion", 100),
    "MuFidelity": ("infidelity", "mufidelity", 100),
}
_LOOKS = (
    (BLUE, "s"), (GREEN, "^"), (PINK, "v"), (SKY, "P"), ("#000000", "<"),
    ("#E69F00", "X"), ("#882255", ">"), ("#332288", "p"), ("#117733", "d"), ("#888888", "*"),
)  # fmt: skip
_TITLES = {  # as the documentation calls them
    _ALLOCATED: "allocated",
    "B234 measured, half": "measured, half",
    "B234 measured, adaptive": "measured, adaptive",
    "B234 measured": "measured",
    "B234 measured, two layers": 'measured, `at=["blocks.2", "blocks.4"]`',
    "EpsilonPlusFlat": "zennit's EpsilonPlusFlat (LRP)",
    "Integrated Gradients": "Integrated Gradients, 50 steps",
    "KernelShap on superpixels": "KernelShap, 50 superpixels, 100 samples",
    "ShapBPT": "ShapBPT, 100 evaluations",
    "Permuted B234 segments + CAM": "control: Grad-CAM within our segments, their cells shuffled",
    "SLIC 100 + CAM": "control: Grad-CAM within superpixels",
    "DINOv2 segments + CAM": "control: Grad-CAM within segments of a DINOv2",
}
_TWO_SIDES = 2 * 1.96  # of a 95 % interval, in standard errors

Found = dict[str, dict[str, Estimate]]  # by method and panel, points of gain over the rival


def main(words: Sequence[str]) -> None:
    """Draw the figure and print the table."""
    prog = "python -m benchmarks study faithfulness_cost"
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON of the preset")
    parser.add_argument("--image", type=Path, default=_IMAGE, help="PNG to write")
    options = parser.parse_args(words)
    results = Results.load(options.results)
    found = found_of(results)
    passes = known_passes()
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        draw(found, passes).savefig(options.image, dpi=130)
    print(render(found, rival_of(results), passes))


def known_passes() -> dict[str, float]:
    """Return the forward passes of each method: as measured, or as the method tells."""
    return {name: make().passes for name, make in find_methods().items()} | _PASSES


def found_of(results: Results, task: str = "natural") -> Found:
    """Return how much better than Grad-CAM's each method's maps are, in points."""
    found: Found = {}
    for panel, (measure, column, factor) in COLUMNS.items():
        for c in results.comparisons:
            if (c.task, c.measure, c.column, c.rival) == (task, measure, column, _RIVAL):
                own = c.estimate
                low, high = sorted((factor * own.low, factor * own.high))
                gain = Estimate(factor * own.mean, low, high, own.n_values, own.n_seeds)
                found.setdefault(c.subject, {})[panel] = gain
    return found


def rival_of(results: Results, task: str = "natural") -> dict[str, float]:
    """Return Grad-CAM's own means by panel, in per cent."""
    rows = {r.measure: r for r in results.rows if (r.task, r.method) == (task, _RIVAL)}
    return {
        panel: 100 * rows[measure].estimates[column].mean
        for panel, (measure, column, _) in COLUMNS.items()
    }


def draw(found: Found, passes: Mapping[str, float]) -> Figure:
    """Draw a panel a measure: the gain over Grad-CAM with its interval, over the passes."""
    others = [name for name in found if name not in (*_OURS, *CONTROLS_BESIDE)]
    figure = Figure(figsize=(10.4, 3.4), layout="constrained")
    panels = figure.subplots(1, len(COLUMNS), sharex=True)
    for axes, panel in zip(panels, COLUMNS, strict=True):
        axes.axhline(0, color="0.4", linewidth=1)
        axes.plot(_RIVAL_PASSES, 0, "D", color="0.4", markersize=5, label=_RIVAL)
        ours = [name for name in _OURS if panel in found.get(name, {})]
        _points(axes, [found[n][panel] for n in ours], [passes[n] for n in ours], ORANGE, "o-",
                "captum_kmex: one pass, measured half, adaptive, full, in two layers")  # fmt: skip
        for name, (color, shape) in zip(others, _LOOKS[: len(others)], strict=True):
            if panel in found[name]:
                _points(axes, [found[name][panel]], [passes[name]], color, shape, name)
        axes.set_title(panel, fontsize=9)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
    panels[0].set_ylabel("points better than Grad-CAM")
    figure.supxlabel("forward passes an image (log scale)", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    return figure


def render(found: Found, rival: Mapping[str, float], passes: Mapping[str, float]) -> str:
    """Return the table of the documentation: points of difference, ± one standard error.

    What is better than the rival for certain, by its 95 % interval, is bold.
    """
    names = [name for name in _TITLES if name in found and name not in CONTROLS_BESIDE]
    names += sorted(found.keys() - _TITLES.keys(), key=lambda name: (passes[name], name))
    names += [name for name in CONTROLS_BESIDE if name in found]
    lines = [[_RIVAL, f"{_RIVAL_PASSES}", *(f"{rival[panel]:.1f}" for panel in COLUMNS)]]
    for name in names:
        cells = [_cell(found[name].get(panel), COLUMNS[panel][2]) for panel in COLUMNS]
        lines.append([_TITLES.get(name, name), f"{passes[name]:.3g}", *cells])
    arrows = {panel: "↑" if factor > 0 else "↓" for panel, (*_, factor) in COLUMNS.items()}
    return table(["map", "passes", *(f"{panel} {arrows[panel]}" for panel in COLUMNS)], lines)


def _points(
    axes: Axes, gains: Sequence[Estimate], passes: Sequence[float], color: str, look: str, name: str
) -> None:
    means = [gain.mean for gain in gains]
    reach = [[g.mean - g.low for g in gains], [g.high - g.mean for g in gains]]
    axes.errorbar(passes, means, reach, fmt=look, color=color, markersize=5, linewidth=1.2,
                  elinewidth=1, label=name)  # fmt: skip


def _cell(gain: Estimate | None, factor: int) -> str:
    """Return the difference as it was measured: lower deletion is better."""
    if gain is None:
        return ""
    mean, error = gain.mean * (1 if factor > 0 else -1), (gain.high - gain.low) / _TWO_SIDES
    text = f"{round(mean, 1) + 0.0:+.1f} ± {error:.1f}"  # no negative zero
    return bold_if(gain.low > 0, text.replace("-", "−"))
