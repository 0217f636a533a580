"""One volume's explanation: the three slices through its strongest cell, and the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from captum_kmex.data.items import item_of
from captum_kmex.explaining.ledger import LedgerRow, Patch
from captum_kmex.explaining.result import ExplanationData
from captum_kmex.text.class_names import ClassNames
from captum_kmex.text.counts import counted
from captum_kmex.visualization.accounts import (
    SCALE,
    SIZE,
    draw_account,
    draw_patches,
    patched_rows,
    write_evidence_title,
    write_headline,
)
from captum_kmex.visualization.colors import LEADING, Color, segment_color
from captum_kmex.visualization.lettering import PLAIN
from captum_kmex.visualization.panels import (
    density,
    draw_map,
    draw_scale,
    evidence_scale,
    has_signs,
)
from captum_kmex.visualization.pictures import Canvas, Picture, bare, canvas, draw_picture, shade

__all__ = ["plot_volume", "volume_size"]

_WIDTH, _HEIGHT, _PATCHES = 10.8, 4.9, 1.35  # inches
_Number = TypeVar("_Number", np.int64, np.float64)
_SIDES = ("D", "H", "W")


def volume_size() -> tuple[float, float]:
    """Return width and height, in inches, of a figure without patches."""
    return _WIDTH, _HEIGHT


def plot_volume(
    explanation: ExplanationData,
    index: int,
    dataset: Sequence[object] | None = None,
    class_names: ClassNames | None = None,
    scale: float | None = None,
    smooth: bool = False,
    figure: Canvas | None = None,
) -> tuple[Figure, NDArray[np.object_]]:
    """Draw one volume's explanation: slices across each side, through the strongest cell.

    Args:
        explanation: Of volumes (N, C, D, H, W).
        index: Which of them.
        dataset: The training set of the fit, for the nearest boxes.
        class_names: Names of the classes.
        scale: The map's value of full colour, by default its own largest.
        smooth: Interpolate between the cells of the map.
        figure: Where to draw.

    Returns:
        The figure and its axes: three of segments, three of the map, the ledger, then one for
        each box.
    """
    patches = patched_rows(explanation, index) if dataset is not None else []
    figure = canvas(figure, _WIDTH, _HEIGHT + (_PATCHES if patches else 0))
    heights = [_HEIGHT, _PATCHES] if patches else [1.0]
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    top = grid[0].subgridspec(2, 4, width_ratios=[1, 1, 1, 1.5])
    axes = [figure.add_subplot(top[i, j]) for i in range(2) for j in range(3)]
    axes.append(figure.add_subplot(top[:, 3]))
    rows, values = explanation.ledger[index], explanation.attribution[index]
    full = scale or evidence_scale([values])
    _draw_slices(explanation, index, axes, full, smooth)
    write_headline(explanation, index, class_names, axes[0])
    axes[1].set_title(counted(len(rows), "segment"), fontsize=SIZE)
    axes[2].set_title(explanation.origin, fontsize=9, **PLAIN)
    is_signed = has_signs([density(values)], [full])
    write_evidence_title(explanation, class_names, axes[3], is_signed)
    draw_account(explanation, index, axes[6], class_names)
    if patches and dataset is not None:
        axes += draw_patches(figure, grid[1], patches, rows, dataset, _draw_box)
    return figure.figure, np.array(axes, dtype=object)


def _draw_slices(
    explanation: ExplanationData, index: int, axes: Sequence[Axes], scale: float, smooth: bool
) -> None:
    """Draw segments and map on the slices across each side."""
    volume, values = _grey(explanation.inputs[index]), density(explanation.attribution[index])
    labels = explanation.segments[index].cpu().numpy()
    strongest = _strongest(np.abs(values))
    is_signed = has_signs([values], [scale])
    for side, cell in enumerate(strongest):
        place = int((cell + 0.5) * volume.shape[side] / values.shape[side])
        shown, own = _slice(volume, place, side), _slice(values, int(cell), side)
        above, below = axes[side], axes[3 + side]
        _draw_segments(_slice(labels, int(cell), side), explanation.ledger[index], shown, above)
        drawn = draw_map(own, shown, below, scale, is_signed, smooth)
        above.set_xlabel(f"{_SIDES[side]} = {place} of {volume.shape[side]}", fontsize=9)
        if side == 1:
            draw_scale(drawn, SCALE)


def _strongest(values: NDArray[np.float64]) -> list[int]:
    """Return the cell of the largest value; of equal ones, that in the midst of them."""
    cells = np.argwhere(values >= values.max() * (1 - 1e-6))
    far = np.square(cells - cells.mean(0)).sum(1)
    return [int(place) for place in cells[far.argmin()]]


def _draw_segments(
    labels: NDArray[np.int64], rows: Sequence[LedgerRow], shown: Picture, ax: Axes
) -> None:
    """Draw a slice's segments in the colours of their ranks in the whole volume."""
    ranks = {row.segment: rank for rank, row in enumerate(rows)}
    places = np.vectorize(ranks.__getitem__, otypes=[np.int64])(labels)
    painted = np.array([segment_color(rank) for rank in range(len(rows))])[places]
    extent = (-0.5, shown.shape[1] - 0.5, shown.shape[0] - 0.5, -0.5)
    ax.imshow(painted, extent=extent, interpolation="nearest")
    dark = shade(shown, 0.3)
    ax.imshow(np.stack([*np.zeros((3, *dark.shape)), dark], -1))
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8}
    for rank in np.unique(places[places < LEADING]):
        depth = ndimage.distance_transform_edt(np.pad(places == rank, 1))[1:-1, 1:-1]
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        ends = zip((x, y), shown.shape[::-1], labels.shape[::-1], strict=True)
        x, y = ((cell + 0.5) * new / old - 0.5 for cell, new, old in ends)
        ax.text(x, y, str(rank + 1), fontsize=8, ha="center", va="center", bbox=box)
    bare(ax)


def _draw_box(patch: Patch, dataset: Sequence[object], color: Color, ax: Axes) -> None:
    """Draw the slice of a training volume through the middle of a prototype's box."""
    x0, y0, z0, x1, y1, z1 = patch.box
    draw_picture(_grey(item_of(dataset, patch.index, 4))[(z0 + z1) // 2], ax)
    place = (x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0
    ax.add_patch(Rectangle(*place, fill=False, ec="black", lw=2.6))  # seen on any picture
    ax.add_patch(Rectangle(*place, fill=False, ec=color, lw=1.4))
    for spine in ax.spines.values():
        spine.set(visible=True, color=color, linewidth=3)


def _slice(volume: NDArray[_Number], place: int, side: int) -> NDArray[_Number]:
    found: NDArray[_Number] = np.moveaxis(volume, side, 0)[place]
    return found


def _grey(volume: Tensor) -> NDArray[np.float64]:
    """Return a volume (C, D, H, W) in grey (D, H, W), from 0 to 1."""
    array = volume.detach().cpu().double().mean(0).numpy()
    low, high = np.percentile(array, (0.5, 99.5))
    return np.asarray(np.clip((array - low) / max(high - low, 1e-12), 0, 1))
