"""Figures of the report: for each measure and task, every method with its interval."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.figures.style import BLUE, GREEN, ORANGE, PINK, SKY, names_down
from benchmarks.quality.measure import Column, Measure
from benchmarks.quality.method import CONTROLS, OURS, Method
from benchmarks.quality.summary import Row

__all__ = ["draw_intervals", "family_looks", "forest"]

_LOOKS = (  # shapes differ as well as colours
    (BLUE, "s"), (GREEN, "^"), (PINK, "v"), (SKY, "P"), ("#E69F00", "X"),
    ("#000000", "<"), ("#882255", ">"), ("#332288", "p"),
)  # fmt: skip
_OUR_LOOK, _CONTROL_LOOK = (ORANGE, "o"), ("#888888", "D")
_MAX_PANELS = 4
_PANEL, _LINE, _FRAME = 2.3, 0.19, 1.25  # inches
_LETTERS = 32  # of a line of a title, as wide as its panel

Look = tuple[str, str]  # colour and marker


def draw_intervals(
    rows: Iterable[Row],
    measures: Mapping[str, Measure],
    methods: Mapping[str, Callable[[], Method]],
    folder: Path,
) -> list[Path]:
    """Write a figure for each task and measure with at least two methods.

    Args:
        rows: What was found.
        measures: The measures; each of the first columns of which one end is better is a panel.
        methods: What makes the methods, for their families.
        folder: Where the PNG files go.

    Returns:
        The files, named by task and measure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    families = {name: make().family for name, make in methods.items()}
    looks = family_looks(families.values())
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.estimates and row.measure in measures and row.method in families:
            groups.setdefault((row.task, row.measure), []).append(row)
    paths = []
    for (task, measure), group in groups.items():
        if len(group) > 1:
            paths.append(folder / f"{task}-{measure}.png")
            with mpl.rc_context({"font.size": 8}):
                forest(group, measures[measure], families, looks).savefig(paths[-1], dpi=130)
    return paths


def family_looks(families: Iterable[str]) -> dict[str, Look]:
    """Return each family's colour and marker, ours first and the controls last."""
    others = [f for f in dict.fromkeys(families) if f not in (OURS, CONTROLS)]
    looks = {family: _LOOKS[i % len(_LOOKS)] for i, family in enumerate(others)}
    return {OURS: _OUR_LOOK, **looks, CONTROLS: _CONTROL_LOOK}


def forest(
    rows: list[Row], measure: Measure, families: Mapping[str, str], looks: Mapping[str, Look]
) -> Figure:
    """Draw one panel a column, one line a method, the best by the first column on top.

    Args:
        rows: The lines, of one task and measure.
        measure: The measure.
        families: Family of each method.
        looks: Colour and marker of each family.
    """
    keys = [
        k for k, c in measure.columns.items() if c.better and any(k in r.estimates for r in rows)
    ]
    keys = keys[:_MAX_PANELS]
    rows = sorted(rows, key=lambda row: _place(row, keys, measure.columns))
    height = _FRAME + _LINE * len(rows)
    figure = Figure(figsize=(2.6 + _PANEL * len(keys), height), layout="constrained")
    panels = figure.subplots(1, len(keys), squeeze=False, sharey=True)[0]
    for axes, key in zip(panels, keys, strict=True):
        _panel(axes, rows, key, measure.columns[key], families, looks)
    _ours_bold(panels[0], [row.method for row in rows], families)
    shown = dict.fromkeys(families[row.method] for row in rows)
    for family, (color, shape) in looks.items():
        if family in shown:
            panels[0].plot([], [], shape, color=color, markersize=5, label=family)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 * len(keys), frameon=False)
    return figure


def _place(row: Row, keys: list[str], columns: Mapping[str, Column]) -> tuple[float, ...]:
    """Return what to sort by: the best first, methods without a value last."""
    signs = {key: -1 if columns[key].better == "high" else 1 for key in keys}
    found = row.estimates
    return tuple(signs[k] * found[k].mean if k in found else float("inf") for k in keys)


def _panel(
    axes: Axes,
    rows: list[Row],
    key: str,
    column: Column,
    families: Mapping[str, str],
    looks: Mapping[str, Look],
) -> None:
    scale = 100 if column.percent else 1
    places = np.array([place for place, row in enumerate(rows) if key in row.estimates])
    found = [row.estimates[key] for row in rows if key in row.estimates]
    means, lows, highs = scale * np.array([(e.mean, e.low, e.high) for e in found]).T
    owners = np.array([families[row.method] for row in rows if key in row.estimates])
    axes.hlines(places, lows, highs, [looks[family][0] for family in owners], linewidth=1.4)
    for family in dict.fromkeys(owners):
        own, (color, shape) = owners == family, looks[family]
        axes.plot(means[own], places[own], shape, color=color, markersize=5)
    arrow = "→" if column.better == "high" else "←"
    unit = " (%)" if column.percent else ""
    title = textwrap.fill(f"{column.title}{unit}", _LETTERS)
    axes.set_title(f"{title}\n{arrow} better", fontsize=8)
    axes.grid(axis="x", color="0.88")
    axes.grid(axis="y", color="0.94")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _ours_bold(axes: Axes, names: list[str], families: Mapping[str, str]) -> None:
    """Label the lines with methods, the first on top, ours bold and in their colour."""
    for label, name in zip(names_down(axes, names), names, strict=True):
        if families[name] == OURS:
            label.set(color=_OUR_LOOK[0], fontweight="bold")
