"""Draw the figures of the page, each from one group's results."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from benchmarks.figures.style import BLUE, GREEN, ORANGE, PINK, SKY, names_down
from benchmarks.speed.groups import GROUPS
from benchmarks.speed.results import Results, Row

__all__ = ["draw_speed_figures"]

_OURS, _RIVAL = ORANGE, BLUE  # shapes differ as well
_SHAPES = ("o", "s", "^")
_WIDTH = 8.0
_BASE = "scikit-learn, n_init=1"  # of k-means class by class
_ITSELF = ("against itself", "against themselves")


def draw_speed_figures(found: Mapping[str, Results], folder: Path) -> None:
    """Write the figure of every group that has results."""
    makers: dict[str, Callable[[dict[str, list[Row]]], Figure]] = {
        "attribute": _attribute,
        "tail": _tail,
        "memory": _memory,
        "kmeans": _kmeans,
        "fit_stream": _stream,
    }
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        for group, make in makers.items():
            tables = {title: _usable(rows) for title, rows in found[group].tables.items()}
            tables = {title: rows for title, rows in tables.items() if rows}
            if tables:
                make(tables).savefig(folder / GROUPS[group].image, dpi=150)


def _usable(rows: list[Row]) -> list[Row]:
    return [row for row in rows if not row.reason and not row.name.endswith(_ITSELF)]


def _figure(height: float, columns: int = 1, lines: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(lines, columns, squeeze=False).flat)


def _color(name: str) -> str:
    return _OURS if name.startswith("ours") else _RIVAL


def _methods_down(axes: Axes, names: list[str]) -> None:
    """Label the vertical axis with methods, the first on top, ours in colour."""
    for label, name in zip(names_down(axes, names), names, strict=True):
        label.set_color(_OURS if name.startswith("ours") else "black")
    axes.grid(axis="x", which="both", color="0.9")
    axes.set_axisbelow(True)


def _plain_ticks(axis: Axis, steps: tuple[int, ...] = (1, 2, 5)) -> None:
    """Write numbers on a log axis as people do: 0.5, 2, 50."""
    axis.set_major_locator(ticker.LogLocator(subs=steps))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def _attribute(tables: dict[str, list[Row]]) -> Figure:
    first = next(iter(tables.values()))
    order = sorted(first, key=lambda row: row.ratios["forward"]["median"])
    names = [row.name for row in order]
    figure, (axes,) = _figure(0.27 * len(names) + 1)
    batches = zip(tables.items(), _SHAPES, (-0.22, 0, 0.22), strict=False)
    for (title, rows), shape, above in batches:
        rows = [row for row in rows if row.name in names]
        colors = [_color(row.name) for row in rows]
        axes.scatter(
            [row.ratios["forward"]["median"] for row in rows],
            [names.index(row.name) + above for row in rows],
            marker=shape,
            s=24,
            facecolors=colors if shape == "o" else "none",
            edgecolors=colors,
        )
        inside, label = "0.3" if shape == "o" else "none", title.removeprefix("attribute, ")
        axes.scatter([], [], marker=shape, s=24, facecolors=inside, edgecolors="0.3", label=label)
    axes.axvline(1, color="0.4", linewidth=1)
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    _methods_down(axes, names)
    axes.set_xlabel("CPU time over the bare forward pass (log scale)")
    axes.legend(loc="upper right", frameon=False)
    return figure


def _tail(tables: dict[str, list[Row]]) -> Figure:
    figure, (left, right) = _figure(3.7, 2)
    counts = tables.get("tail, prototypes", [])
    _tail_lines(left, [(_number(r"K=(\d+)", row), row) for row in counts], "")
    left.set_xscale("log")
    left.set_xlabel("prototypes K (log scale), batch 1, 224 x 224")
    sizes = tables.get("tail, image size", [])
    for k in dict.fromkeys(_number(r"K=(\d+)", row) for row in sizes):
        own = [row for row in sizes if row.name.endswith(f"K={k}")]
        _tail_lines(right, [(_number(r"(\d+) x", row), row) for row in own], f", K={k}")
    right.set_xlabel("side of the image, batch 1")
    for axes in (left, right):
        axes.set_yscale("log")
        axes.grid(which="major", color="0.9")
        axes.set_ylabel("CPU time over the forward pass (log scale)")
        _plain_ticks(axes.yaxis)
        axes.margins(y=0.1)
    _plain_ticks(left.xaxis, (1,))
    left.legend(frameon=False, loc="upper left")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _tail_lines(axes: Axes, points: list[tuple[int, Row]], suffix: str) -> None:
    """Draw ours and the naive way over the same values; dashes tell the larger K apart."""
    is_second = bool(axes.lines)
    line = "--" if is_second else "-"
    x = [value for value, _ in points]
    ours = [row.ratios["forward"]["median"] for _, row in points]
    naive = [row.seconds["naive"] / row.seconds["forward"] for _, row in points]
    shapes = ("D", "^") if is_second else ("o", "s")
    axes.plot(x, naive, line, color=_RIVAL, marker=shapes[1], label=f"naive{suffix}")
    axes.plot(x, ours, line, color=_OURS, marker=shapes[0], label=f"ours{suffix}")


def _number(pattern: str, row: Row) -> int:
    found = re.search(pattern, row.name)
    return int(found.group(1)) if found else 0


def _memory(tables: dict[str, list[Row]]) -> Figure:
    rows = sorted(next(iter(tables.values())), key=lambda row: row.values["peak_mib"])
    names = [row.name for row in rows]
    figure, (axes,) = _figure(0.27 * len(rows) + 0.8)
    values = [row.values["peak_mib"] for row in rows]
    bars = axes.barh(range(len(rows)), values, 0.65, color=[_color(name) for name in names])
    axes.bar_label(bars, fmt="%.0f", padding=3)
    _methods_down(axes, names)
    axes.set_xlim(0, 1.08 * max(values))
    axes.set_xlabel("peak of live tensors, MiB")
    return figure


def _kmeans(tables: dict[str, list[Row]]) -> Figure:
    tables = {
        title: rows
        for title, rows in tables.items()
        if not title.endswith("a class") and _BASE in rows[0].ratios
    }
    figure, panels = _figure(3.9, len(tables))
    names = list(dict.fromkeys(row.name for rows in tables.values() for row in rows))
    for axes, (title, rows) in zip(panels, tables.items(), strict=True):
        axes.scatter([1], [1], marker="+", color="black", s=70, label=_BASE)
        for row in rows:
            _solver_point(axes, row, names.index(row.name))
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis, (1, 3))
        axes.margins(0.15)
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.set_title(title.removeprefix("k-means, ").replace(" x 512, ", "\n512 wide, "), size=9)
        axes.set_xlabel("CPU time ratio (log scale)")
    panels[0].set_ylabel("inertia ratio")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _solver_point(axes: Axes, row: Row, place: int) -> None:
    """Mark one solver; a star for ours, a cross where it has a single start."""
    x, y = row.ratios[_BASE]["median"], row.values["inertia"]
    if row.name.startswith("ours"):
        shape = "P" if row.name.endswith("=1") else "*"
        axes.scatter([x], [y], color=_OURS, marker=shape, s=110, label=row.name)
    else:
        color = (BLUE, SKY, GREEN, PINK, "#999933")[place]
        axes.scatter([x], [y], color=color, marker="svD^X"[place], s=40, label=row.name)


def _stream(tables: dict[str, list[Row]]) -> Figure:
    names = list(dict.fromkeys(row.name for rows in tables.values() for row in rows))
    lines = -(-len(tables) // 2)
    figure, panels = _figure(lines * (0.26 * len(names) + 0.5) + 0.4, 2, lines)
    for axes, (title, rows) in zip(panels, tables.items(), strict=False):
        for row in rows:
            place = names.index(row.name)
            median, high = row.values["inertia"] - 1, row.values["inertia_p90"] - 1
            axes.plot([100 * median, 100 * high], [place] * 2, color=_color(row.name))
            axes.plot([100 * median], [place], "o", color=_color(row.name), markersize=5)
        _methods_down(axes, names)
        axes.axvline(0, color="0.4", linewidth=1)
        axes.set_title(title.removeprefix("fit, one pass: "), size=9)
        if axes in panels[1::2]:
            axes.set_yticklabels([])
    figure.supxlabel("inertia above the best of six runs on all rows, percent", size=9)
    return figure
