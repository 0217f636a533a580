"""One signal's explanation: its curve on coloured intervals, the evidence below, the ledger."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from captum_kmex.data.items import item_of
from captum_kmex.explaining.ledger import LedgerRow, Patch
from captum_kmex.explaining.result import ExplanationData
from captum_kmex.text.class_names import ClassNames
from captum_kmex.text.counts import counted
from captum_kmex.visualization.accounts import (
    SCALE,
    draw_account,
    draw_patches,
    patched_rows,
    write_headline,
)
from captum_kmex.visualization.colors import LEADING, NEGATIVE, POSITIVE, Color, segment_color
from captum_kmex.visualization.lettering import PLAIN
from captum_kmex.visualization.panels import density, evidence_scale
from captum_kmex.visualization.pictures import Canvas, canvas

__all__ = ["draw_evidence", "draw_signal", "plot_signal", "signal_size"]

_WIDTH, _HEIGHT, _PATCHES = 10.8, 3.6, 1.35  # inches
_PALE = 0.35


def signal_size() -> tuple[float, float]:
    """Return width and height, in inches, of a figure without patches."""
    return _WIDTH, _HEIGHT


def plot_signal(
    explanation: ExplanationData,
    index: int,
    dataset: Sequence[object] | None = None,
    class_names: ClassNames | None = None,
    scale: float | None = None,
    smooth: bool = False,
    figure: Canvas | None = None,
) -> tuple[Figure, NDArray[np.object_]]:
    """Draw one signal's explanation.

    Args:
        explanation: Of signals (N, C, T).
        index: Which of them.
        dataset: The training set of the fit, for the nearest intervals.
        class_names: Names of the classes.
        scale: The evidence at the ends of its axis, by default the largest.
        smooth: Draw the evidence as a line between the middles of cells, not as steps.
        figure: Where to draw.

    Returns:
        The figure and its axes: signal, evidence, ledger, then one for each interval.
    """
    patches = patched_rows(explanation, index) if dataset is not None else []
    figure = canvas(figure, _WIDTH, _HEIGHT + (_PATCHES if patches else 0))
    heights = [_HEIGHT, _PATCHES] if patches else [1.0]
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    top = grid[0].subgridspec(2, 2, width_ratios=[3, 1.5], height_ratios=[2, 1])
    above = figure.add_subplot(top[0, 0])
    below, beside = figure.add_subplot(top[1, 0], sharex=above), figure.add_subplot(top[:, 1])
    rows, labels = explanation.ledger[index], explanation.segments[index]
    draw_signal(explanation.inputs[index], above, labels.cpu().numpy(), rows)
    above.tick_params(labelbottom=False)
    write_headline(explanation, index, class_names, above)
    values = explanation.attribution[index]
    full = scale or evidence_scale([values])
    draw_evidence(density(values), explanation.inputs.shape[2], below, full, smooth)
    below.set_xlabel(f"{counted(len(rows), 'segment')}: {explanation.origin}", fontsize=9, **PLAIN)
    draw_account(explanation, index, beside, class_names)
    axes = [above, below, beside]
    if patches and dataset is not None:
        axes += draw_patches(figure, grid[1], patches, rows, dataset, _draw_interval)
    return figure.figure, np.array(axes, dtype=object)


def draw_signal(
    signal: Tensor, ax: Axes, segments: NDArray[np.int64], rows: Sequence[LedgerRow]
) -> None:
    """Draw a signal on the coloured intervals of its segments, numbered by their rank.

    Args:
        signal: Float tensor (C, T); several channels are drawn one above the other.
        ax: Where to draw.
        segments: Segment of each cell (t,).
        rows: The signal's ledger.
    """
    length, ranks = signal.shape[1], {row.segment: rank for rank, row in enumerate(rows)}
    edges = np.linspace(0, length, len(segments) + 1) - 0.5
    ends = np.flatnonzero(np.diff(segments)) + 1
    widest: dict[int, tuple[float, float]] = {}
    for first, stop in zip([0, *ends], [*ends, len(segments)], strict=True):
        rank, low, high = ranks[int(segments[first])], edges[first], edges[stop]
        ax.axvspan(low, high, color=segment_color(rank), alpha=_PALE, lw=0)
        if high - low > np.diff(widest.get(rank, (0.0, 0.0)))[0]:
            widest[rank] = (low, high)
    _draw_lines(signal, ax)
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8}
    for rank, (low, high) in widest.items():
        if rank < LEADING:
            ax.text((low + high) / 2, 0.94, str(rank + 1), fontsize=8, ha="center", va="center",
                    bbox=box, transform=ax.get_xaxis_transform())  # fmt: skip


def draw_evidence(
    values: NDArray[np.floating], length: int, ax: Axes, scale: float, smooth: bool = False
) -> None:
    """Draw the evidence of a signal's cells: red for the class, blue against it.

    Args:
        values: Evidence of each cell (t,), as a density.
        length: Samples T of the signal.
        ax: Where to draw.
        scale: The value at the ends of the axis.
        smooth: Draw a line between the middles of the cells, not steps.
    """
    edges = np.linspace(0, length, len(values) + 1) - 0.5
    x, y = np.repeat(edges, 2)[1:-1], np.repeat(values, 2)
    if smooth:
        x = np.linspace(edges[0], edges[-1], 8 * len(values))
        y = np.interp(x, (edges[:-1] + edges[1:]) / 2, values)
    for color, part in ((POSITIVE, y.clip(min=0)), (NEGATIVE, y.clip(max=0))):
        ax.fill_between(x, part, color=color, lw=0)
    ax.axhline(0, color="black", lw=0.6)
    low = -1.05 * scale if values.min() < 0 else 0
    ax.set(xlim=(edges[0], edges[-1]), ylim=(low, 1.05 * scale if values.max() > 0 else 0.0))
    ax.set_ylabel(SCALE.replace(", ", ",\n"), fontsize=8)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_lines(signal: Tensor, ax: Axes) -> None:
    """Draw the channels of a signal as lines, of several each above the next."""
    lines = signal.detach().cpu().double().numpy()
    spread = 1.1 * float((lines.max(1) - lines.min(1)).max()) or 1.0
    for i, line in enumerate(lines):
        ax.plot(line - i * spread, color="black", lw=0.9)
    if len(lines) > 1:
        ax.set_yticks([-i * spread for i in range(len(lines))], map(str, range(len(lines))))
        ax.set_ylabel("channel", fontsize=8)
    ax.set_xlim(-0.5, lines.shape[1] - 0.5)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_interval(patch: Patch, dataset: Sequence[object], color: Color, ax: Axes) -> None:
    """Draw a training signal with a prototype's interval in the segment's colour."""
    _draw_lines(item_of(dataset, patch.index, 2), ax)
    start, stop = patch.box
    ax.axvspan(start - 0.5, stop - 0.5, color=color, alpha=0.6, lw=0)
    ax.set(xticks=[], yticks=[], ylabel="")
    for spine in ax.spines.values():
        spine.set(visible=True, color=color, linewidth=2)
