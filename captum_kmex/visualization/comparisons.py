"""Explanations side by side: images by depths with their patches, and one image by depths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from torch import Tensor

from captum_kmex.arguments import check_count, checked, resolve_index
from captum_kmex.classes import class_of
from captum_kmex.explaining.result import ExplanationData
from captum_kmex.text.class_names import ClassNames, class_name
from captum_kmex.text.counts import counted
from captum_kmex.visualization.colors import segment_colors
from captum_kmex.visualization.lettering import PLAIN, column_width, fitted, row_height
from captum_kmex.visualization.panels import (
    density,
    draw_map,
    draw_scale,
    draw_segments,
    has_signs,
    panel_scales,
)
from captum_kmex.visualization.pictures import (
    Canvas,
    Picture,
    bare,
    canvas,
    draw_patch,
    draw_picture,
    picture,
    relative_height,
)

__all__ = ["plot_comparison", "plot_depths"]

Painter = Callable[[NDArray[np.float64], Picture, Axes], AxesImage]  # of a map


@checked
def plot_comparison(
    explanations: Sequence[ExplanationData],
    names: Sequence[str],
    indices: Sequence[int],
    *,
    dataset: Sequence[object] | None = None,
    n_patches: int = 5,
    class_names: ClassNames | None = None,
    scale: float | str = "each",
    smooth: bool = False,
    figure: Canvas | None = None,
) -> tuple[Figure, NDArray[np.object_]]:
    """Draw one row an image: segments, evidence and nearest training patches (Figure 1).

    Args:
        explanations: Explanations of one batch, at one depth or several.
        names: A name for each.
        indices: Which images of the batch.
        dataset: The training set of the fit, for the nearest patches.
        n_patches: Leading segments whose nearest patch is drawn.
        class_names: Names of the classes.
        scale: Full colour of the maps: ``"each"`` its own, ``"shared"`` one for all images and
            depths, or a number (see ``evidence_scale``).
        smooth: Interpolate between the cells of the maps.
        figure: Where to draw.

    Returns:
        The figure and its axes (rows, columns).

    Reference:
        Boubekki & Clemmensen (2026), Figure 1.
    """
    check_count("names", names, len(explanations), "explanations")
    class_names = explanations[0].class_names if class_names is None else class_names
    indices = [resolve_index("indices", i, len(explanations[0])) for i in indices]
    patches = n_patches if dataset is not None else 0
    block = 2 + patches
    columns = 1 + len(explanations) * block
    first = picture(explanations[0].inputs[indices[0]])
    height = relative_height(first) + (0.2 if patches else 0.08)
    figure = canvas(figure, 1.05 * columns, height * len(indices) + 0.4)
    axes = figure.subplots(len(indices), columns, squeeze=False)
    maps = [explanation.attribution[i] for i in indices for explanation in explanations]
    painters = iter(_painters(maps, scale, smooth))
    for line, index in zip(axes, indices, strict=True):
        shown = picture(explanations[0].inputs[index])
        draw_picture(shown, line[0])
        owners = class_of(explanations[0].target, explanations[0].logits)
        name = class_name(int(owners[index]), class_names)
        line[0].set_ylabel(fitted("{}", [name], row_height(line[0]), 9), fontsize=9, **PLAIN)
        for start, explanation in zip(range(1, columns, block), explanations, strict=True):
            cells = line[start : start + block]
            _cells(explanation, index, shown, cells, dataset, next(painters))
    axes[0, 0].set_title("input", fontsize=9)
    for start, name in zip(range(1, columns, block), names, strict=True):
        axes[0, start].set_title(f"{name}: segments", fontsize=9, **PLAIN)
        axes[0, start + 1].set_title("evidence", fontsize=9)
        if patches:
            axes[0, start + 2].set_title("nearest training patches", fontsize=9, loc="left")
    return figure.figure, axes


def _painters(maps: Sequence[Tensor], scale: float | str, smooth: bool) -> list[Painter]:
    """Return what draws each map of a figure, in one code of colours."""
    scales = panel_scales(maps, scale)
    is_signed = has_signs(map(density, maps), scales)
    return [partial(draw_map, scale=full, is_signed=is_signed, smooth=smooth) for full in scales]


def _cells(
    explanation: ExplanationData,
    index: int,
    shown: Picture,
    cells: Sequence[Axes],
    dataset: Sequence[object] | None,
    paint: Painter,
) -> None:
    """Draw one image at one depth."""
    rows = explanation.ledger[index]
    labels = explanation.segments[index].cpu().numpy()
    draw_segments(labels, rows, shown, cells[0], max(5, len(cells) - 2))
    paint(density(explanation.attribution[index]), shown, cells[1])
    colors = segment_colors(labels, [row.segment for row in rows])
    for i, ax in enumerate(cells[2:]):
        if dataset is not None and i < len(rows) and rows[i].representatives:
            draw_patch(rows[i].representatives[0], dataset, colors[i], ax)
            ax.set_xlabel(f"{i + 1}: {rows[i].evidence:+.1f}", fontsize=9)
        else:
            ax.axis("off")


@checked
def plot_depths(
    explanations: Sequence[ExplanationData],
    index: int = 0,
    *,
    names: Sequence[str] | None = None,
    class_names: ClassNames | None = None,
    image: Picture | None = None,
    scale: float | str = "shared",
    smooth: bool = False,
    figure: Canvas | None = None,
) -> tuple[Figure, NDArray[np.object_]]:
    """Draw one image at several depths: segments above, map below, with its sum.

    Args:
        explanations: Explanations of the same batch, deepest first: B4, B34, B234.
        index: Which image of the batch.
        names: A name for each; by default its layers.
        class_names: Names of the classes.
        image: The picture to show; by default the input, rescaled.
        scale: Full colour of the maps: ``"shared"``, ``"each"`` or a number (see
            ``evidence_scale``; grids of any size share a scale).
        smooth: Interpolate between the cells of the maps.
        figure: Where to draw.

    Returns:
        The figure and its axes (2, 1 + depths); the place below the picture is empty.
    """
    index = resolve_index("index", index, len(explanations[0]))
    class_names = explanations[0].class_names if class_names is None else class_names
    if names is not None:
        check_count("names", names, len(explanations), "explanations")
    shown = picture(explanations[0].inputs[index] if image is None else image)
    side = 2.1 * relative_height(shown)
    figure = canvas(figure, 2.2 * (1 + len(explanations)), 2 * side + 1.3)
    axes = figure.subplots(2, 1 + len(explanations), squeeze=False)
    draw_picture(shown, axes[0, 0])
    owners = class_of(explanations[0].target, explanations[0].logits)
    name = class_name(int(owners[index]), class_names)
    room = column_width(axes[0, 0])
    axes[0, 0].set_title(fitted("{}", [name], room, 9), fontsize=9, **PLAIN)
    axes[1, 0].axis("off")
    maps = [explanation.attribution[index] for explanation in explanations]
    painters = _painters(maps, scale, smooth)
    for i, (explanation, paint) in enumerate(zip(explanations, painters, strict=True)):
        title = explanation.origin if names is None else str(names[i])
        _depth_column(explanation, index, shown, list(axes[:, 1 + i]), title, paint)
    return figure.figure, axes


def _depth_column(
    explanation: ExplanationData,
    index: int,
    shown: Picture,
    cells: Sequence[Axes],
    title: str,
    paint: Painter,
) -> None:
    """Draw one depth: segments above, map below."""
    rows, values = explanation.ledger[index], explanation.attribution[index]
    draw_segments(explanation.segments[index].cpu().numpy(), rows, shown, cells[0])
    height, width = values.shape[1:]
    shown_title = fitted("{}", [title], column_width(cells[0]), 9)
    cells[0].set_title(shown_title, fontsize=9, **PLAIN)
    cells[0].set_xlabel(f"{counted(len(rows), 'segment')} on {height} by {width}", fontsize=9)
    drawn = paint(density(values), shown, cells[1])
    bar = draw_scale(drawn)
    total, bias = float(values.double().sum()), float(explanation.bias[index])
    left = 0.0 if explanation.not_linear is None else float(explanation.not_linear[index])
    rest = "" if explanation.not_linear is None else f", not linear {left:+.2f}"
    bar.set_xlabel(
        f"sum {total:+.2f}, bias {bias:+.2f}{rest}\n= {total + bias + left:.2f}"
        f" (logit {float(explanation.output[index]):.2f})",
        fontsize=9,
    )
    bare(cells[1])
