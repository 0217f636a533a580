"""Colours of segments and classes, told apart with any colour vision and beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, to_hex, to_rgb
from numpy.typing import NDArray

from captum_kmex.arguments import checked

__all__ = [
    "DIVERGING",
    "LEADING",
    "NEGATIVE",
    "PALETTE",
    "POSITIVE",
    "SEQUENTIAL",
    "TOTAL",
    "palette_distances",
    "segment_color",
    "segment_colors",
]  # fmt: skip

Color = tuple[float, float, float]

POSITIVE, NEGATIVE, TOTAL = "#B2182B", "#2166AC", "#555555"
# white at zero, red and blue, which stay apart with any colour vision; the ends are the two above:
# beyond them RdBu is nearly black, and a picture could not be seen through it
DIVERGING = ListedColormap(colormaps["RdBu_r"](np.linspace(0.1, 0.9, 255)), name="evidence")
# where nothing speaks against the class: the same white and red at the ends, and more between
SEQUENTIAL: Colormap = LinearSegmentedColormap.from_list(
    "evidence_for", [to_hex(DIVERGING(127)), "#FDE9B8", "#FBB463", "#E8593B", POSITIVE]
)

# Okabe & Ito (2008), but for black; then, one after the other, the colour of middle lightness and
# chroma whose distance to all before it, as the worst of four kinds of vision sees it, is largest.
PALETTE = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#0072B2", "#D55E00", "#80260D",
    "#8CFFF2", "#264D66", "#B3BFA6", "#9973F2", "#994D33", "#6626A6", "#B3E6A6", "#26D9E6",
    "#806673", "#F2BF59", "#80B373", "#4D598C", "#B373CC", "#CC99BF", "#598C40", "#B3FFA6",
    "#664040", "#8059D9", "#990066", "#A68CFF", "#8C7399", "#00734D", "#A69940", "#7340BF",
    "#99E6E6", "#8CD98C", "#BF3359", "#8CBFFF", "#730D80", "#D9B359", "#D96680", "#8C4000",
)  # fmt: skip
LEADING = 12  # segments with a number, a row of their own, and the same colour in every image

# Machado, Oliveira & Fernandes (2009), severity 1, on linear RGB
_VISIONS = (
    ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216),
     (-0.003882, -0.048116, 1.051998)),
    ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413),
     (-0.011820, 0.042940, 0.968881)),
    ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602),
     (0.004733, 0.691367, 0.303900)),
)  # fmt: skip
# Ottosson, "A perceptual color space for image processing" (2020): Oklab
_TO_CONES = ((0.4122214708, 0.5363325363, 0.0514459929),
             (0.2119034982, 0.6806995451, 0.1073969566),
             (0.0883024619, 0.2817188376, 0.6299787005))  # fmt: skip
_TO_LAB = ((0.2104542553, 0.7936177850, -0.0040720468),
           (1.9779984951, -2.4285922050, 0.4505937099),
           (0.0259040371, 0.7827717662, -0.8086757660))  # fmt: skip


@checked
def segment_color(rank: int) -> Color:
    """Return the colour of a segment's rank in the ledger, or of a class; they repeat after 40."""
    return to_rgb(PALETTE[rank % len(PALETTE)])


@lru_cache(maxsize=1)
def palette_distances() -> NDArray[np.float64]:
    """Return how far the palette's colours are apart (40, 40), in hundredths of Oklab.

    The least of the distances that normal, protanope, deuteranope and tritanope vision sees.
    """
    colors = np.array([to_rgb(name) for name in PALETTE])
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    seen = np.stack([np.clip(linear @ np.array(vision).T, 0, 1) for vision in _VISIONS])
    lab = 100 * np.cbrt(seen @ np.array(_TO_CONES).T) @ np.array(_TO_LAB).T  # (4, 40, 3)
    gaps = np.linalg.norm(lab[:, :, None] - lab[:, None], axis=-1)
    return np.asarray(gaps.min(0))


@checked
def segment_colors(segments: NDArray[np.int64], order: Sequence[int]) -> list[Color]:
    """Return a colour for each segment of an image, so that neighbours differ.

    The leading twelve have the palette's first colours, in every image the same. The others take,
    in turn, the colour farthest from those of their neighbours among the ones still free, or
    among all once none is.

    Args:
        segments: Segment of each cell (h, w).
        order: The segments, most important first.
    """
    check_segments(segments, order)
    ranks = {segment: rank for rank, segment in enumerate(order)}
    places = np.vectorize(ranks.__getitem__, otypes=[np.int64])(segments)
    touching = _neighbours(places, len(order))
    gaps = palette_distances()
    chosen: list[int] = list(range(min(LEADING, len(order))))
    for rank in range(len(chosen), len(order)):
        beside = [chosen[i] for i in touching[rank] if i < rank]
        free = sorted(set(range(len(PALETTE))) - set(chosen)) or list(range(len(PALETTE)))
        nearest = gaps[free][:, beside].min(1, initial=np.inf)
        chosen.append(free[int(nearest.argmax())])
    return [segment_color(i) for i in chosen]


def check_segments(segments: NDArray[np.int64], order: Sequence[int]) -> None:
    """Raise ``ValueError`` where a segment of a map is not listed."""
    missing = np.setdiff1d(segments, np.asarray(order))
    if missing.size:
        raise ValueError(
            f"segments holds {int(missing[0])}, which is not among the {len(order)} listed; pass "
            "segments and ledger of one image"
        )


def _neighbours(places: NDArray[np.int64], count: int) -> list[set[int]]:
    """Return, for each segment, those with a cell beside one of its cells."""
    across = np.stack([places[:, :-1], places[:, 1:]], -1).reshape(-1, 2)
    down = np.stack([places[:-1], places[1:]], -1).reshape(-1, 2)
    pairs = np.concatenate([across, down])
    borders = pairs[pairs[:, 0] != pairs[:, 1]]  # few of a mask as large as the picture
    touching: list[set[int]] = [set() for _ in range(count)]
    for a, b in np.unique(borders, axis=0).tolist():
        touching[a].add(b)
        touching[b].add(a)
    return touching
