"""Segments and signed maps over a picture, and the scale of their colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from captum_kmex.arguments import checked
from captum_kmex.arguments.inputs import check_choice
from captum_kmex.explaining.ledger import LedgerRow
from captum_kmex.visualization.colors import DIVERGING, check_segments, segment_colors
from captum_kmex.visualization.pictures import Picture, bare

__all__ = ["density", "draw_map", "draw_scale", "draw_segments", "evidence_scale", "panel_scales"]

_N_NUMBERS = 12  # numbers in one picture that can still be read
_ROOM = 0.075  # of the longer side, that a number takes


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
    n_numbers: int = _N_NUMBERS,
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
    points = [_inner_point(segments == segment) for segment in order[:n_numbers]]
    places = (np.array(points).reshape(-1, 2) + 0.5) * (width, height) - 0.5
    _draw_numbers(places, _ROOM * max(image.shape[:2]), ax)
    bare(ax)


def _draw_numbers(places: NDArray[np.float64], room: float, ax: Axes) -> None:
    """Write the ranks at their places (M, 2), but for those with no room beside the ones before."""
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8}
    taken = np.empty((0, 2))
    for rank, place in enumerate(places):
        if (np.abs(taken - place).max(1) < room).any():
            continue
        taken = np.concatenate([taken, place[None]])
        x, y = place
        ax.text(x, y, str(rank + 1), fontsize=7, ha="center", va="center", bbox=box)


@checked
def draw_map(values: NDArray[np.floating], image: Picture, ax: Axes, scale: float) -> AxesImage:
    """Draw a signed map over the image: red for the class, blue against it, white at zero.

    Args:
        values: Map (h, w).
        image: Picture (H, W[, 3]).
        ax: Where to draw.
        scale: The value of full colour.

    Returns:
        The coloured map, for a colour bar; the picture lies over it as a shade.
    """
    norm = Normalize(-scale, scale)
    drawn = ax.imshow(
        values, cmap=DIVERGING, norm=norm, extent=_extent(image), interpolation="nearest"
    )
    _draw_shade(image, ax, 0.45)
    bare(ax)
    return drawn


@checked
def draw_scale(drawn: AxesImage, label: str = "", height: float = 0.035) -> Axes:
    """Draw the colours of a map below it, with zero and both ends.

    Args:
        drawn: What ``draw_map`` returned.
        label: What the numbers are.
        height: Height of the bar, as a share of the map's.
    """
    inset = drawn.axes.inset_axes((0.1, -0.035 - height, 0.8, height))
    _, end = drawn.get_clim()
    end = end or 1.0
    bar = inset.figure.colorbar(drawn, cax=inset, orientation="horizontal", ticks=[-end, 0, end])
    text = f"{end:.3g}" if 0.001 <= end < 1000 else f"{end:.1e}".replace("e+0", "e")
    bar.set_ticklabels([f"-{text}", "0", f"+{text}"])
    bar.ax.tick_params(labelsize=6, length=2, pad=1)
    bar.outline.set_linewidth(0.4)
    bar.set_label(label, fontsize=6, labelpad=1)
    return inset


def _extent(image: Picture) -> tuple[float, float, float, float]:
    return -0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5


def _draw_shade(image: Picture, ax: Axes, strength: float) -> None:
    """Darken what is drawn where the picture is dark.

    Grey pictures on black, such as digits, are turned round, as in print: their ground would
    hide the colours.
    """
    grey = image if image.ndim == 2 else image.mean(2)
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    is_drawing = image.ndim == 2 and np.median(edge) < 0.1
    dark = 0.6 * grey if is_drawing else 1 - grey
    shade = np.zeros((*grey.shape, 4))
    shade[..., 3] = strength * np.clip(dark, 0, 1)
    ax.imshow(shade)


def _borders(segments: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the sides (M, 2, 2) between cells of different segments, as x, y in cells."""
    y, x = np.nonzero(segments[:, 1:] != segments[:, :-1])
    upright = np.stack([np.stack([x + 1, y], -1), np.stack([x + 1, y + 1], -1)], 1)
    y, x = np.nonzero(segments[1:] != segments[:-1])
    level = np.stack([np.stack([x, y + 1], -1), np.stack([x + 1, y + 1], -1)], 1)
    return np.concatenate([upright, level]).astype(np.float64)


def _inner_point(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the cell of a segment farthest from its border, as x, y."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = divmod(int(depth.argmax()), mask.shape[1])
    return float(x), float(y)
