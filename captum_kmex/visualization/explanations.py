"""One image's explanation in full: the panel of Figure 1, and "why not that class"."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from captum_kmex.arguments import checked, resolve_index
from captum_kmex.explaining.result import ExplanationData
from captum_kmex.text.class_names import ClassNames, class_name
from captum_kmex.visualization.accounts import (
    SCALE,
    SIZE,
    TITLE,
    draw_account,
    draw_patches,
    patched_rows,
    write_evidence_title,
    write_headline,
    write_segment_title,
)
from captum_kmex.visualization.lettering import PLAIN, column_width, fitted
from captum_kmex.visualization.panels import (
    density,
    draw_map,
    draw_scale,
    draw_segments,
    evidence_scale,
    has_signs,
)
from captum_kmex.visualization.pictures import (
    Canvas,
    Picture,
    canvas,
    draw_patch,
    draw_picture,
    picture,
    relative_height,
)
from captum_kmex.visualization.signals import plot_signal
from captum_kmex.visualization.volumes import plot_volume

__all__ = ["panel_size", "plot_contrast", "plot_explanation"]

_WIDTH = 10.8  # of a new figure, in inches


@checked
def plot_explanation(
    explanation: ExplanationData,
    index: int = 0,
    dataset: Sequence[object] | None = None,
    class_names: ClassNames | None = None,
    image: Picture | None = None,
    *,
    scale: float | None = None,
    smooth: bool = False,
    figure: Canvas | None = None,
) -> tuple[Figure, NDArray[np.object_]]:
    """Draw one image's explanation: image, segments, map, ledger and nearest patches.

    Arguments are those of ``Explanation.plot``.

    Returns:
        The figure and its axes: four, then one for each patch.
    """
    index = resolve_index("index", index, len(explanation))
    class_names = explanation.class_names if class_names is None else class_names
    if explanation.inputs.ndim != 4:
        check_no_picture(image)
        draw = plot_signal if explanation.inputs.ndim == 3 else plot_volume
        return draw(explanation, index, dataset, class_names, scale, smooth, figure)
    rows = explanation.ledger[index]
    shown = picture(explanation.inputs[index] if image is None else image)
    patches = patched_rows(explanation, index) if dataset is not None else []
    side = _side(shown)
    figure = canvas(figure, _WIDTH, side + 1.0 + (1.35 if patches else 0))
    heights = [side + 0.8, 1.35] if patches else [1.0]
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    top = grid[0].subgridspec(1, 4, width_ratios=[1, 1, 1, 1.5])
    axes = [figure.add_subplot(top[0, i]) for i in range(4)]
    draw_picture(shown, axes[0])
    write_headline(explanation, index, class_names, axes[0])
    _segment_panel(explanation, index, shown, axes[1])
    values = explanation.attribution[index]
    full = scale or evidence_scale([values])
    drawn = draw_map(density(values), shown, axes[2], full, smooth=smooth)
    draw_scale(drawn, SCALE)
    write_evidence_title(explanation, class_names, axes[2], drawn.get_clim()[0] < 0)
    draw_account(explanation, index, axes[3], class_names)
    if patches and dataset is not None:
        axes += draw_patches(figure, grid[1], patches, rows, dataset, draw_patch)
    return figure.figure, np.array(axes, dtype=object)


def check_no_picture(image: Picture | None) -> None:
    """Raise ``ValueError`` for a picture to be shown in place of a signal or a volume."""
    if image is not None:
        raise ValueError("image= is a picture, and no picture was explained; leave image= out")


def panel_size(image: Picture) -> tuple[float, float]:
    """Return width and height, in inches, of a figure of an explanation without patches."""
    return _WIDTH, _side(image) + 1.0


def _side(image: Picture) -> float:
    """Return the height of each picture, in inches."""
    return 2.35 * max(0.9, relative_height(image))


def _segment_panel(explanation: ExplanationData, index: int, shown: Picture, ax: Axes) -> None:
    rows = explanation.ledger[index]
    draw_segments(explanation.segments[index].cpu().numpy(), rows, shown, ax)
    write_segment_title(explanation, index, ax)


@checked
def plot_contrast(
    target: ExplanationData,
    contrast: ExplanationData,
    index: int = 0,
    *,
    class_names: ClassNames | None = None,
    image: Picture | None = None,
    scale: str = "each",
    smooth: bool = False,
    figure: Canvas | None = None,
) -> tuple[Figure, NDArray[np.object_]]:
    """Draw why one class and not another: both maps, their difference and its ledger.

    The third map is the first minus the second, cell by cell.

    Args:
        target: Explanation of the class.
        contrast: Explanation of the other class, of the same images, layers and segments.
        index: Which image of the batch.
        class_names: Names of the classes.
        image: The picture to show; by default the input, rescaled.
        scale: ``"shared"``: the three maps have one scale; ``"each"``: the two classes share
            one, and the difference, which may be small, has its own.
        smooth: Interpolate between the cells of the maps.
        figure: Where to draw.

    Returns:
        The figure and its axes (2, 3): picture, segments, ledger; the two maps, the difference.

    Raises:
        ValueError: The explanations differ in their segments, or explain a difference already.

    Example:
        >>> import torch
        >>> from captum_kmex import LayerKMeansAttribution
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten(), torch.nn.Linear(8, 4)).eval()
        >>> x, attr = torch.rand(1, 1, 12, 12), LayerKMeansAttribution(model, "1", n_clusters=3)
        >>> figure = Figure(layout="constrained")
        >>> _, axes = plot_contrast(attr.explain(x, 0), attr.explain(x, 3), figure=figure)
        >>> axes[0, 2].get_title()
        'ledger: bias + segments = difference'
    """
    index = resolve_index("index", index, len(target))
    class_names = target.class_names if class_names is None else class_names
    both = contrasted(target, contrast, index)
    shown = picture(target.inputs[index] if image is None else image)
    side = 2.7 * max(0.6, relative_height(shown))
    figure = canvas(figure, 10.0, 2 * side + 1.2)
    axes = figure.subplots(2, 3, width_ratios=[1, 1, 1.3])
    draw_picture(shown, axes[0, 0])
    write_headline(both, 0, class_names, axes[0, 0])
    _segment_panel(both, 0, shown, axes[0, 1])
    draw_account(both, 0, axes[0, 2], class_names)
    maps = [target.attribution[index], contrast.attribution[index], both.attribution[0]]
    names = [class_name(int(e.target[index]), class_names) for e in (target, contrast)]
    outputs = [float(e.output[index]) for e in (target, contrast)] + [float(both.output[0])]
    titles = [names[:1], names[1:], names]
    shared = evidence_scale(maps if scale == "shared" else maps[:2])
    axes[1, 2].set_anchor("W")  # beside the other two: its column is as wide as the ledger
    scales = [shared, shared, shared if scale == "shared" else evidence_scale(maps[2:])]
    values = [density(found) for found in maps]
    paint = partial(draw_map, is_signed=has_signs(values, scales), smooth=smooth)
    for ax, found, title, output, full in zip(
        axes[1], values, titles, outputs, scales, strict=True
    ):
        draw_scale(paint(found, shown, ax, full), SCALE)
        template = " minus ".join(["{}"] * len(title)) + f": {output:+.2f}"
        written = fitted(template, title, TITLE * column_width(ax), SIZE)
        ax.set_title(written, fontsize=SIZE, **PLAIN)
    return figure.figure, axes


def contrasted(target: ExplanationData, contrast: ExplanationData, index: int) -> ExplanationData:
    """Return the explanation of the difference of two logits of one image: theirs, subtracted.

    Raises:
        ValueError: As in ``plot_contrast``.
    """
    one = slice(index, index + 1) if index >= 0 else slice(index, index + 1 or None)
    _check_pair(target, contrast, one)
    evidence = {row.segment: row.evidence for row in contrast.ledger[index]}
    not_measured: dict[str, Any] = {"removed": None, "kept": None, "error": None, "ties": ()}
    rows = [
        dataclasses.replace(row, evidence=row.evidence - evidence[row.segment], **not_measured)
        for row in target.ledger[index]
    ]
    return dataclasses.replace(
        target,
        inputs=target.inputs[one],
        target=target.target[one],
        contrast=contrast.target[one],
        logits=target.logits[one],
        attribution=target.attribution[one] - contrast.attribution[one],
        segments=target.segments[one],
        ledger=(tuple(sorted(rows, key=lambda row: -abs(row.evidence))),),
        bias=target.bias[one] - contrast.bias[one],
        output=target.output[one] - contrast.output[one],
        not_linear=_difference(target.not_linear, contrast.not_linear, one),
        class_scores=None,
        prediction=None,
        enough=None,
        needed=None,
    )


def _difference(target: Tensor | None, contrast: Tensor | None, one: slice) -> Tensor | None:
    return None if target is None or contrast is None else target[one] - contrast[one]


def _check_pair(target: ExplanationData, contrast: ExplanationData, one: slice) -> None:
    """Raise ``ValueError`` unless two explanations of an image can be subtracted."""
    if target.contrast is not None or contrast.contrast is not None:
        raise ValueError(
            "an explanation with contrast= is a difference already; pass those of the two classes"
        )
    if target.logits.shape[1] == 1:
        raise ValueError(
            "a single logit has no second class; its own map tells one from the other by its sign"
        )
    if not torch.equal(target.segments[one], contrast.segments[one]):
        raise ValueError(
            "the two explanations have different segments; explain the same images at the same "
            "depth, without restrict="
        )
