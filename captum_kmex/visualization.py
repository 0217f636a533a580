"""Figures of explanations, with matplotlib; every function takes axes and shows nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from captum.attr import visualization as captum_visualization
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from captum_kmex.concepts import image_of
from captum_kmex.ledger import LedgerRow, Patch

if TYPE_CHECKING:
    from captum_kmex.explanation import Explanation

__all__ = [
    "draw_ledger",
    "draw_map",
    "draw_patch",
    "draw_segments",
    "picture",
    "plot_comparison",
    "plot_explanation",
    "visualize_image_attr",
]

Picture = NDArray[np.float64]

# Okabe & Ito (2008) and Tol (2021): told apart with any colour vision; then greys
_COLORS = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#0072B2", "#D55E00", "#AA4499",
    "#882255", "#44AA99", "#999933", "#332288",
)  # fmt: skip
_POSITIVE, _NEGATIVE, _TOTAL = "#B2182B", "#2166AC", "#555555"
_LEDGER_ROWS = 8


def segment_color(rank: int) -> tuple[float, float, float]:
    """Return the colour of the segment with a rank in the ledger; greys after the twelfth."""
    if rank < len(_COLORS):
        return to_rgb(_COLORS[rank])
    grey = 0.35 + 0.4 * ((rank * 0.618) % 1)
    return grey, grey, grey


def picture(image: Tensor | Picture) -> Picture:
    """Return an image as (H, W) or (H, W, 3) in [0, 1], whatever its normalisation.

    Args:
        image: Float tensor (C, H, W), stretched from its 0.5th to its 99.5th percentile; or a
            picture (H, W[, 3]), returned as floats.
    """
    if isinstance(image, np.ndarray):
        return image / 255.0 if image.dtype == np.uint8 else image.astype(float)
    array = image.detach().cpu().double().numpy()
    low, high = np.percentile(array, (0.5, 99.5))
    array = np.clip((array - low) / max(high - low, 1e-12), 0, 1)
    stretched = array.mean(0) if array.shape[0] != 3 else array.transpose(1, 2, 0)
    return np.asarray(stretched)


def draw_picture(image: Picture, ax: Axes) -> None:
    """Draw a picture in its own pixels."""
    ax.imshow(image, cmap="gray", vmin=0, vmax=1)
    _bare(ax)


def draw_segments(
    segments: NDArray[np.int64],
    rows: Sequence[LedgerRow],
    image: Picture,
    ax: Axes,
    n_numbers: int = len(_COLORS),
) -> None:
    """Draw segments over the image, coloured and numbered by their rank in the ledger.

    Args:
        segments: Segment of each cell (h, w).
        rows: The image's ledger.
        image: Picture (H, W[, 3]).
        ax: Where to draw.
        n_numbers: How many of the leading segments get their number.
    """
    rank = {row.segment: i for i, row in enumerate(rows)}
    colors = np.array([segment_color(rank[s]) for s in segments.ravel().tolist()])
    ax.imshow(_tinted(colors.reshape(*segments.shape, 3), image, 0.55))
    height, width = image.shape[:2]
    for i, row in enumerate(rows[:n_numbers]):
        y, x = _inner_point(segments == row.segment)
        place = ((x + 0.5) * width / segments.shape[1], (y + 0.5) * height / segments.shape[0])
        box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8}
        ax.text(*place, str(i + 1), fontsize=7, ha="center", va="center", bbox=box)
    _bare(ax)


def draw_map(values: NDArray[np.float32], image: Picture, ax: Axes, scale: float) -> None:
    """Draw a signed map over the image: red for the class, blue against it, white at zero.

    Args:
        values: Map (h, w).
        image: Picture (H, W[, 3]).
        ax: Where to draw.
        scale: The value of full colour.
    """
    colors = colormaps["RdBu_r"](Normalize(-scale, scale)(values))[..., :3]
    ax.imshow(_tinted(colors, image, 0.6))
    _bare(ax)


def _tinted(colors: Picture, image: Picture, light: float) -> Picture:
    """Lay colours (h, w, 3) over an image, whose darkest spot keeps a share of their light."""
    grey = image if image.ndim == 2 else image.mean(2)
    rows, columns = (
        (np.arange(size) * cells // size)
        for size, cells in zip(grey.shape, colors.shape, strict=False)
    )
    return np.asarray(colors[rows][:, columns] * (light + (1 - light) * grey[..., None]))


def draw_ledger(
    rows: Sequence[LedgerRow],
    bias: float,
    output: float,
    ax: Axes,
    class_names: Sequence[str] | None = None,
    total: str = "logit",
) -> None:
    """Draw the account: from the bias, segment by segment, to the logit.

    Args:
        rows: The image's ledger.
        bias: Where the bars begin.
        output: The logit, where they end.
        ax: Where to draw.
        class_names: Names of the prototypes' classes.
        total: What the bars end at.
    """
    shown = list(rows[:_LEDGER_ROWS]) if len(rows) > _LEDGER_ROWS + 1 else list(rows)
    lines = [(_row_label(i, row, class_names), row.evidence) for i, row in enumerate(shown)]
    rest = sum(row.evidence for row in rows[len(shown) :])
    if len(shown) < len(rows):
        area = sum(row.area for row in rows[len(shown) :])
        lines.append((f"{len(rows) - len(shown)} others · {area:.0%}", rest))
    level = bias
    ax.barh(0, bias, color=_TOTAL, height=0.7)
    for y, (_, evidence) in enumerate(lines, start=1):
        color = _POSITIVE if evidence >= 0 else _NEGATIVE
        ax.barh(y, evidence, left=level, color=color, height=0.7)
        ax.plot([level, level], [y - 1.35, y + 0.35], color="#999999", lw=0.6)
        level += evidence
    ax.barh(len(lines) + 1, output, color=_TOTAL, height=0.7)
    labels = ["bias", *(label for label, _ in lines), total]
    values = [bias, *(evidence for _, evidence in lines), output]
    ax.set_yticks(range(len(labels)), labels, fontsize=7)
    for tick, i in zip(ax.get_yticklabels()[1:], range(len(shown)), strict=False):
        tick.set_bbox({"fc": (*segment_color(i), 0.45), "ec": "none", "pad": 1.2})
    low, high = ax.get_xlim()
    ax.set_xlim(low - 0.02 * (high - low), high + 0.22 * (high - low))
    for y, value in enumerate(values):
        ax.text(1.0, y, f"{value:+.2f}", transform=ax.get_yaxis_transform(), fontsize=7,
                ha="right", va="center")  # fmt: skip
    ax.axvline(0, color="black", lw=0.6)
    ax.invert_yaxis()
    ax.tick_params(axis="x", labelsize=7)
    ax.spines[["top", "right", "left"]].set_visible(False)


def draw_patch(
    patch: Patch, dataset: Sequence[object], color: tuple[float, float, float], ax: Axes
) -> None:
    """Draw a training image with a prototype's patch boxed, framed in the segment's colour.

    Args:
        patch: Which image and box.
        dataset: The training set: images (C, H, W), or tuples that begin with one.
        color: Colour of box and frame.
        ax: Where to draw.
    """
    draw_picture(picture(image_of(dataset, patch.index)), ax)
    x0, y0, x1, y1 = patch.box
    box = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, ec=color, lw=1.5)
    ax.add_patch(box)
    for spine in ax.spines.values():
        spine.set(visible=True, color=color, linewidth=3)


def plot_explanation(
    explanation: Explanation,
    index: int = 0,
    dataset: Sequence[object] | None = None,
    class_names: Sequence[str] | None = None,
    image: Picture | None = None,
) -> tuple[Figure, NDArray[np.object_]]:
    """Draw one image's explanation: image, segments, map, ledger and nearest patches.

    Arguments are those of ``Explanation.plot``.

    Returns:
        The figure and its axes: four, then one for each patch.
    """
    rows = explanation.ledger[index]
    shown = picture(explanation.inputs[index] if image is None else image)
    patches = [row for row in rows[:4] if row.representatives] if dataset is not None else []
    ratio = shown.shape[0] / shown.shape[1]
    side = 2.6 * min(1.4, max(1.0, ratio))
    figure = plt.figure(figsize=(12.4, side + 0.6 + (1.5 if patches else 0)), layout="constrained")
    heights = [side + 0.4, 1.4] if patches else [1.0]
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    top = grid[0].subgridspec(1, 4, width_ratios=[1, 1, 1, 1.45])
    axes = [figure.add_subplot(top[0, i]) for i in range(4)]
    draw_picture(shown, axes[0])
    axes[0].set_title(_headline(explanation, index, class_names), fontsize=9)
    draw_segments(explanation.segments[index].cpu().numpy(), rows, shown, axes[1])
    restricted = ", own prototypes only" if explanation.restricted else ""
    axes[1].set_title(f"{len(rows)} segments{restricted}", fontsize=9)
    axes[1].set_xlabel(" + ".join(explanation.layers), fontsize=8)
    values = explanation.attribution[index, 0].cpu().numpy()
    draw_map(values, shown, axes[2], max(float(np.abs(values).max()), 1e-12))
    axes[2].set_title("evidence: red for, blue against", fontsize=9)
    bias, output = float(explanation.bias[index]), float(explanation.output[index])
    total = "logit" if explanation.contrast is None else "difference"
    draw_ledger(rows, bias, output, axes[3], class_names, total)
    r2 = explanation.surrogate_r2
    surrogate = "" if r2 is None else f" (of a surrogate, R² = {r2:.2f})"
    axes[3].set_title(f"ledger: bias + segments = {total}{surrogate}", fontsize=9)
    if patches and dataset is not None:
        axes += _patch_row(figure, grid[1], patches, rows, dataset)
    return figure, np.array(axes, dtype=object)


def _patch_row(
    figure: Figure,
    spec: SubplotSpec,
    patches: Sequence[LedgerRow],
    rows: Sequence[LedgerRow],
    dataset: Sequence[object],
) -> list[Axes]:
    """Draw up to three nearest training patches of each of the leading segments."""
    cells = spec.subgridspec(1, 12)
    axes = []
    for i, row in enumerate(patches):
        for j, patch in enumerate(row.representatives[:3]):
            ax = figure.add_subplot(cells[0, 3 * i + j])
            draw_patch(patch, dataset, segment_color(rows.index(row)), ax)
            ax.set_title(f"{rows.index(row) + 1}: d={patch.distance:.2f}", fontsize=7)
            axes.append(ax)
    return axes


def plot_comparison(
    explanations: Sequence[Explanation],
    names: Sequence[str],
    indices: Sequence[int],
    *,
    dataset: Sequence[object] | None = None,
    n_patches: int = 5,
) -> tuple[Figure, NDArray[np.object_]]:
    """Draw one row an image: segments, nearest training patches and evidence (Figure 1).

    Args:
        explanations: Explanations of one batch, at one depth or several.
        names: A name for each.
        indices: Which images of the batch.
        dataset: The training set of the fit, for the nearest patches.
        n_patches: Leading segments whose nearest patch is drawn.

    Returns:
        The figure and its axes (rows, columns).

    Reference:
        Boubekki & Clemmensen (2026), Figure 1.
    """
    patches = n_patches if dataset is not None else 0
    columns = 1 + len(explanations) * (2 + patches)
    shape = (len(indices), columns)
    size = (1.05 * columns, 1.12 * len(indices) + 0.3)
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained")
    for line, index in zip(axes, indices, strict=True):
        shown = picture(explanations[0].inputs[index])
        draw_picture(shown, line[0])
        line[0].set_ylabel(f"class {int(explanations[0].target[index])}", fontsize=8)
        for block, explanation in enumerate(explanations):
            cells = line[1 + block * (2 + patches) :][: 2 + patches]
            _comparison_cells(explanation, index, shown, cells, dataset)
    axes[0, 0].set_title("input", fontsize=8)
    for block, name in enumerate(names):
        start = 1 + block * (2 + patches)
        axes[0, start].set_title(f"{name}: segments", fontsize=8)
        axes[0, start + 1].set_title("evidence", fontsize=8)
        if patches:
            axes[0, start + 2].set_title("nearest training patches", fontsize=8, loc="left")
    return figure, axes


def _comparison_cells(
    explanation: Explanation,
    index: int,
    shown: Picture,
    cells: Sequence[Axes],
    dataset: Sequence[object] | None,
) -> None:
    rows = explanation.ledger[index]
    labels = explanation.segments[index].cpu().numpy()
    draw_segments(labels, rows, shown, cells[0], max(5, len(cells) - 2))
    values = explanation.attribution[index, 0].cpu().numpy()
    draw_map(values, shown, cells[1], max(float(np.abs(values).max()), 1e-12))
    for i, ax in enumerate(cells[2:]):
        if dataset is not None and i < len(rows) and rows[i].representatives:
            draw_patch(rows[i].representatives[0], dataset, segment_color(i), ax)
            ax.set_xlabel(f"{i + 1}: {rows[i].evidence:+.1f}", fontsize=7)
        else:
            ax.axis("off")


def visualize_image_attr(
    maps: Tensor, images: Tensor, index: int = 0, **options: object
) -> tuple[Figure, Axes]:
    """Draw one map with Captum's visualiser, on the image and at its size.

    Captum draws a 7x7 map into the corner of a 224x224 picture without complaint and fails
    on a map of zeros; this resizes the first and shows the second as the plain picture.

    Args:
        maps: Float tensor (N, 1, h, w), or (N, C, H, W) of ``upsample="input"``.
        images: The images (N, C, H, W).
        index: Which image of the batch.
        options: Captum's own, such as ``method="blended_heat_map"`` and ``sign="all"``.

    Returns:
        Captum's figure and axes.
    """
    values = maps[index].detach().sum(0, keepdim=True).unsqueeze(0).float()
    size = (images.shape[2], images.shape[3])
    resized = torch.nn.functional.interpolate(values, size, mode="bilinear", align_corners=False)
    shown = picture(images[index])
    shown = shown if shown.ndim == 3 else np.repeat(shown[..., None], 3, 2)
    settings = {"method": "blended_heat_map", "sign": "all", "use_pyplot": False} | options
    attribution = resized[0, 0].cpu().numpy()[..., None]
    if not np.abs(attribution).max() > 0:
        attribution = np.ones_like(attribution)  # Captum scales it even where it does not draw it
        settings |= {"method": "original_image", "title": "the map is zero everywhere"}
    figure, axes = captum_visualization.visualize_image_attr(attribution, shown, **settings)
    return figure, axes


def _headline(explanation: Explanation, index: int, class_names: Sequence[str] | None) -> str:
    target = int(explanation.target[index])
    name = class_names[target] if class_names is not None else f"class {target}"
    if explanation.contrast is not None:
        against = int(explanation.contrast[index])
        other = class_names[against] if class_names is not None else f"class {against}"
        return f"{name}, not {other}: {float(explanation.output[index]):+.2f}"
    if explanation.logits.shape[1] == 1:
        return f"{name}: {float(explanation.output[index]):+.2f}"
    share = float(explanation.logits[index].softmax(0)[target])
    return f"{name} (p = {share:.2f})"


def _row_label(rank: int, row: LedgerRow, class_names: Sequence[str] | None) -> str:
    if row.class_index is None:
        return f"{rank + 1} · {row.area:.0%}"
    owner = class_names[row.class_index] if class_names is not None else row.class_index
    return f"{rank + 1} · {owner} #{row.prototype} · {row.area:.0%}"


def _inner_point(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the cell of a segment farthest from its border."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = divmod(int(depth.argmax()), mask.shape[1])
    return float(y), float(x)


def _bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
