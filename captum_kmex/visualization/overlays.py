"""The map or the segments of an image over its picture in grey, as one PIL image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captum_kmex.arguments import resolve_index
from captum_kmex.explaining.result import ExplanationData
from captum_kmex.visualization.colors import DIVERGING, SEQUENTIAL, segment_colors
from captum_kmex.visualization.panels import density, evidence_scale, has_signs
from captum_kmex.visualization.pictures import Picture, picture, shade

__all__ = ["overlay"]

_IMAGES = 4  # dimensions of a batch of images
_STRENGTH = {"map": 0.5, "segments": 0.3}  # of the picture over the colours


def overlay(
    explanation: ExplanationData,
    index: int = 0,
    kind: str = "map",
    image: Picture | None = None,
    *,
    scale: float | None = None,
    smooth: bool = False,
) -> Image.Image:
    """Return an image's map or segments over its picture; see ``Explanation.overlay``."""
    index = resolve_index("index", index, len(explanation))
    if explanation.inputs.ndim != _IMAGES:
        raise ValueError(
            "overlay is a picture of an image; signals and volumes are drawn by Explanation.plot"
        )
    shown = picture(explanation.inputs[index] if image is None else image)
    size = shown.shape[1], shown.shape[0]
    if kind == "segments":
        colored = _resized(_segment_cells(explanation, index), size, is_smooth=False)
    else:
        colored = _map_colors(explanation, index, size, scale, smooth)
    dark = shade(shown, _STRENGTH[kind])[..., None]
    return Image.fromarray((255 * colored * (1 - dark)).round().astype(np.uint8))


def _map_colors(
    explanation: ExplanationData,
    index: int,
    size: tuple[int, int],
    scale: float | None,
    smooth: bool,
) -> NDArray[np.float64]:
    """Return the colours (H, W, 3) of a map, interpolated as values rather than as colours."""
    maps = explanation.attribution[index]
    values, full = density(maps), scale or evidence_scale([maps])
    is_signed = has_signs([values], [full])
    fine = _resized(values[..., None], size, smooth)[..., 0]
    share = (fine / full + 1) / 2 if is_signed else fine / full
    colors = (DIVERGING if is_signed else SEQUENTIAL)(np.clip(share, 0, 1))
    return np.asarray(colors[..., :3])


def _segment_cells(explanation: ExplanationData, index: int) -> NDArray[np.float64]:
    """Return the colour of each cell's segment (h, w, 3)."""
    labels = explanation.segments[index].cpu().numpy()
    order = [row.segment for row in explanation.ledger[index]]
    colors = dict(zip(order, segment_colors(labels, order), strict=True))
    present, places = np.unique(labels, return_inverse=True)
    table = np.array([colors[segment] for segment in present.tolist()])
    return np.asarray(table[places.reshape(labels.shape)])


def _resized(
    values: NDArray[np.float64], size: tuple[int, int], is_smooth: bool
) -> NDArray[np.float64]:
    """Return values (h, w, C) in pixels (H, W, C)."""
    how = Image.Resampling.BILINEAR if is_smooth else Image.Resampling.NEAREST
    parts = [
        Image.fromarray(values[..., i].astype(np.float32)).resize(size, how)
        for i in range(values.shape[2])
    ]
    return np.stack([np.asarray(part, np.float64) for part in parts], -1)
