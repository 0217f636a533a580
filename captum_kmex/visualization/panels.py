"""Segments and signed maps over a picture, and the scale of their colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from torch import Tensor

from captum_kmex.arguments import checked
from captum_kmex.arguments.inputs import check_choice
from captum_kmex.explaining.ledger import LedgerRow
from captum_kmex.visualization.colors import (
    DIVERGING,
    LEADING,
    SEQUENTIAL,
    check_segments,
    segment_colors,
)
from captum_kmex.visualization.lettering import column_width
from captum_kmex.visualization.numbering import number_places
from captum_kmex.visualization.pictures import Picture, bare, shade

__all__ = ["density", "draw_map", "draw_scale", "draw_segments", "evidence_scale", "has_signs",
           "panel_scales"]  # fmt: skip

_WIDE, _HIGH = 17.0, 15.0  # points that a number takes with its ground
_ROOM = 0.075  # of the picture's sides, that it takes at least
_UNSEEN = 0.01  # of full colour, that looks like none


@checked
def density(maps: Tensor) -> NDArray[np.float64]:
    """Return a map (C, h, w) as (h, w) values whose mean is the map's sum.

    Grids of any size then share a scale: a cell's value is what the whole map would add up to if
    every cell were like it. Channels are added.
    """
    values = maps.detach().cpu().double().sum(0)
    return np.asarray(values.numpy() * values.numel())


@checked
def evidence_scale(maps: Iterable[Tensor], percentile: float = 100.0) -> float:
    """Return the value of full colour for several maps: their largest absolute density.

    Args:
        maps: Maps (C, h, w), on grids of any size, such as those of ``result.attribution``.
        percentile: Share of each map's cells, in percent, whose colour is not clipped.

    Raises:
        ValueError: A map holds NaN or Inf.
    """
    found = [float(np.percentile(np.abs(density(image)), percentile)) for image in maps]
    if not np.isfinite(found).all():
        raise ValueError("a map holds NaN or Inf, for which there is no colour; replace them first")
    return max(found, default=0.0) or 1.0


def panel_scales(
    maps: Sequence[Tensor], scale: float | str, percentile: float = 100.0
) -> list[float]:
    """Return the value of full colour of each of several maps (C, h, w).

    Args:
        maps: The maps of one figure.
        scale: ``"shared"``: one for all; ``"each"``: each map's own; or a number.
        percentile: As in ``evidence_scale``.
    """
    if isinstance(scale, (int, float)):
        return [float(scale)] * len(maps)
    check_choice("scale", scale, ("each", "shared"))
    if scale == "shared":
        return [evidence_scale(maps, percentile)] * len(maps)
    return [evidence_scale([image], percentile) for image in maps]


@checked
def draw_segments(
    segments: NDArray[np.int64],
    rows: Sequence[LedgerRow],
    image: Picture,
    ax: Axes,
    n_numbers: int = LEADING,
) -> None:
    """Draw segments over the image, coloured and numbered by their rank in the ledger.

    Args:
        segments: Segment of each cell (h, w).
        rows: The image's ledger.
        image: Picture (H, W[, 3]).
        ax: Where to draw.
        n_numbers: How many of the leading segments get their number.
    """
    order = [row.segment for row in rows]
    check_segments(segments, order)
    colors = dict(zip(order, segment_colors(segments, order), strict=True))
    # by those there are, not by all numbers up to the largest, which may be any
    present, places = np.unique(segments, return_inverse=True)
    table = np.array([colors[segment] for segment in present.tolist()])
    painted = table[places.reshape(segments.shape)]
    ax.imshow(painted, extent=_extent(image), interpolation="nearest")
    _draw_shade(image, ax, 0.3)
    width, height = image.shape[1] / segments.shape[1], image.shape[0] / segments.shape[0]
    thin = 0.5 * min(1.0, 32 / max(segments.shape))  # points; thinner where cells are small
    lines = _borders(segments) * (width, height) - 0.5
    ax.add_collection(LineCollection(list(lines), colors="black", linewidths=thin), autolim=False)
    _draw_numbers(segments, order[:n_numbers], image, ax)
    bare(ax)


def _draw_numbers(
    segments: NDArray[np.int64], order: Sequence[int], image: Picture, ax: Axes
) -> None:
    """Write the numbers of segments, with a line to those that have no room for theirs."""
    height, width = image.shape[:2]
    points = max(column_width(ax), 1.0)  # of the picture's width, at most
    longer = _ROOM * max(width, height)
    room = (
        max(_WIDE / points, longer / width),
        max(_HIGH / points * width / height, longer / height),
    )
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85}
    size = np.array([width, height])
    for number, label in enumerate(number_places(segments, order, room), start=1):
        x, y = np.array(label.place) * size - 0.5
        if label.place != label.anchor:
            x0, y0 = np.array(label.anchor) * size - 0.5
            ax.plot([x0, x], [y0, y], color="white", lw=1.8, solid_capstyle="round")
            ax.plot([x0, x], [y0, y], color="black", lw=0.8, marker="o", ms=2, markevery=[0])
        ax.text(x, y, str(number), fontsize=9, ha="center", va="center", bbox=box)


@checked
def draw_map(
    values: NDArray[np.floating],
    image: Picture,
    ax: Axes,
    scale: float,
    is_signed: bool | None = None,
    smooth: bool = False,
) -> AxesImage:
    """Draw a map over the image in grey: red for the class, blue against it, white at zero.

    Where nothing speaks against the class, from white by yellow to the same red, which tells
    more values apart.

    Args:
        values: Map (h, w).
        image: Picture (H, W[, 3]).
        ax: Where to draw.
        scale: The value of full colour.
        is_signed: Whether blue is needed; ``None`` looks at the values (see ``has_signs``).
        smooth: Interpolate between the cells, rather than show them as they are.

    Returns:
        The coloured map, for a colour bar; the picture lies over it as a shade.
    """
    if is_signed is None:
        is_signed = has_signs([values], [scale])
    drawn = ax.imshow(
        values,
        cmap=DIVERGING if is_signed else SEQUENTIAL,
        norm=Normalize(-scale if is_signed else 0, scale),
        extent=_extent(image),
        interpolation="bilinear" if smooth else "nearest",
    )
    _draw_shade(image, ax, 0.5)
    bare(ax)
    return drawn


def has_signs(values: Iterable[NDArray[np.floating]], scales: Iterable[float]) -> bool:
    """Whether any of several maps speaks against the class by more than can be seen.

    Args:
        values: The maps of one figure, which has one code of colours.
        scales: The value of full colour of each.
    """
    return any(
        float(found.min()) < -_UNSEEN * scale for found, scale in zip(values, scales, strict=True)
    )


@checked
def draw_scale(drawn: AxesImage, label: str = "", height: float = 0.035) -> Axes:
    """Draw the colours of a map below it, with zero and its ends.

    Args:
        drawn: What ``draw_map`` returned.
        label: What the numbers are.
        height: Height of the bar, as a share of the map's.
    """
    inset = drawn.axes.inset_axes((0.1, -0.035 - height, 0.8, height))
    low, end = drawn.get_clim()
    text = f"{end:.3g}" if 0.001 <= end < 1000 else f"{end:.1e}".replace("e+0", "e")
    ticks = {-end: f"-{text}", 0: "0", end: f"+{text}"}
    shown = [at for at in ticks if at >= low]
    bar = inset.figure.colorbar(drawn, cax=inset, orientation="horizontal", ticks=shown)
    bar.set_ticklabels([ticks[at] for at in shown])
    bar.ax.tick_params(labelsize=9, length=2, pad=1)
    bar.outline.set_linewidth(0.4)
    bar.set_label(label, fontsize=9, labelpad=1)
    return inset


def _extent(image: Picture) -> tuple[float, float, float, float]:
    return -0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5


def _draw_shade(image: Picture, ax: Axes, strength: float) -> None:
    """Darken what is drawn where the picture is dark."""
    dark = shade(image, strength)
    ax.imshow(np.stack([*np.zeros((3, *dark.shape)), dark], -1))


def _borders(segments: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the sides (M, 2, 2) between cells of different segments, as x, y in cells."""
    y, x = np.nonzero(segments[:, 1:] != segments[:, :-1])
    upright = np.stack([np.stack([x + 1, y], -1), np.stack([x + 1, y + 1], -1)], 1)
    y, x = np.nonzero(segments[1:] != segments[:-1])
    level = np.stack([np.stack([x, y + 1], -1), np.stack([x + 1, y + 1], -1)], 1)
    return np.concatenate([upright, level]).astype(np.float64)
