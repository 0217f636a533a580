"""Maps of any attribution: a grid of methods, and Captum's own visualiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from captum.attr import visualization as captum_visualization
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from captum_kmex.arguments import check_count, checked, resolve_index
from captum_kmex.visualization.colors import DIVERGING
from captum_kmex.visualization.lettering import PLAIN, column_width, fitted, row_height
from captum_kmex.visualization.panels import (
    density,
    draw_map,
    draw_scale,
    has_signs,
    panel_scales,
)
from captum_kmex.visualization.pictures import (
    Canvas,
    Picture,
    canvas,
    draw_picture,
    picture,
    relative_height,
)

__all__ = ["plot_methods", "visualize_image_attr"]


@checked
def plot_methods(
    images: Tensor | Sequence[Picture],
    maps: Mapping[str, Tensor],
    *,
    scale: str = "each",
    percentile: float = 99.5,
    names: Sequence[str] | None = None,
    smooth: bool = False,
    figure: Canvas | None = None,
) -> tuple[Figure, NDArray[np.object_]]:
    """Draw a grid of maps: one row an image, one column a method.

    Args:
        images: Images (N, C, H, W), or N pictures (H, W[, 3]).
        maps: Each method's maps (N, C, h, w), of any grid; channels are added.
        scale: Full colour: ``"each"`` map its own, written below it; one a ``"method"``;
            or one ``"shared"`` by all, for methods of the same units. Values are densities
            (see ``density``), so that grids of any size compare.
        percentile: Share of a map's cells, in percent, whose colour is not clipped.
        names: A name for each image.
        smooth: Interpolate between the cells of the maps.
        figure: Where to draw.

    Returns:
        The figure and its axes (N, 1 + methods).

    Raises:
        ValueError: Another number of maps than of images, an unknown scale, NaN or Inf.
    """
    if names is not None:
        check_count("names", names, len(images), "images")
    for method, found in maps.items():
        if found.ndim != 4 or len(found) != len(images):
            raise ValueError(
                f"maps of {method!r} must be (N, C, h, w) with N = {len(images)} images; got "
                f"{tuple(found.shape)}"
            )
    scales = _grid_scales(maps, scale, percentile)
    shown = [picture(image) for image in images]
    is_signed = _is_signed(maps, scales)
    height = 1.6 * relative_height(shown[0]) + (0.28 if scale == "each" else 0.08)
    figure = canvas(figure, 1.7 * (1 + len(maps)), height * len(shown) + 0.5)
    axes = figure.subplots(len(shown), 1 + len(maps), squeeze=False)
    for i, line in enumerate(axes):
        draw_picture(shown[i], line[0])
        name = "" if names is None else fitted("{}", [str(names[i])], row_height(line[0]), 9)
        line[0].set_ylabel(name, fontsize=9, **PLAIN)
        for ax, method, full in zip(line[1:], maps, scales[i], strict=True):
            drawn = draw_map(density(maps[method][i]), shown[i], ax, full, is_signed, smooth)
            if scale == "each" or i == len(shown) - 1:
                draw_scale(drawn)
    for ax, name in zip(axes[0], ["input", *maps], strict=True):
        shown_name = fitted("{}", [name], column_width(ax), 9)
        ax.set_title(shown_name, fontsize=9, **PLAIN)
    return figure.figure, axes


def _is_signed(maps: Mapping[str, Tensor], scales: Sequence[Sequence[float]]) -> bool:
    """Whether any map of the grid needs blue: all have one code of colours."""
    columns = zip(*scales, strict=True)
    return any(
        has_signs(map(density, found), column)
        for found, column in zip(maps.values(), columns, strict=True)
    )


def _grid_scales(maps: Mapping[str, Tensor], scale: str, percentile: float) -> list[list[float]]:
    """Return the value of full colour of each image's map of each method."""
    if scale == "shared":
        flat = [image for found in maps.values() for image in found]
        full = panel_scales(flat, "shared", percentile)
        columns = [full[: len(found)] for found in maps.values()]
    else:
        mode = "shared" if scale == "method" else "each"
        columns = [panel_scales(list(found), mode, percentile) for found in maps.values()]
    return [list(line) for line in zip(*columns, strict=True)]


@checked
def visualize_image_attr(
    maps: Tensor, images: Tensor, index: int = 0, **options: object
) -> tuple[Figure, Axes]:
    """Draw one map with Captum's visualiser, on the image and at its size.

    Captum draws a 7x7 map into the corner of a 224x224 picture without complaint and fails where
    a map has no value of the sign asked for; this resizes the first and shows the plain picture
    for the second.

    Args:
        maps: Float tensor (N, 1, h, w), or (N, C, H, W) of ``upsample="input"``.
        images: The images (N, C, H, W).
        index: Which image of the batch.
        options: Captum's own. Unless given, ``method`` is ``"blended_heat_map"``; ``sign`` is
            ``"all"``, or ``"positive"`` where Captum draws no signs; and ``cmap``, where signs
            are drawn, is ours: red for, blue against.

    Returns:
        Captum's figure and axes.
    """
    index = resolve_index("index", index, len(maps))
    values = maps[index].detach().sum(0, keepdim=True).unsqueeze(0).float()
    size = (images.shape[2], images.shape[3])
    resized = interpolate(values, size, mode="bilinear", align_corners=False)[0, 0].cpu().numpy()
    shown = picture(images[index])
    shown = shown if shown.ndim == 3 else np.repeat(shown[..., None], 3, 2)
    settings: dict[str, object] = {"method": "blended_heat_map", "use_pyplot": False} | options
    is_signed = settings["method"] not in ("masked_image", "alpha_scaling")
    settings.setdefault("sign", "all" if is_signed else "positive")
    if settings["sign"] == "all":
        settings.setdefault("cmap", DIVERGING)
    if not _has_sign(resized, settings["sign"]):
        what = "zero everywhere" if not resized.any() else f"nowhere {settings['sign']}"
        settings |= {"method": "original_image", "title": f"the map is {what}"}
        resized = np.ones_like(resized)  # Captum scales it even where it does not draw it
        settings["sign"] = "absolute_value"
    figure, axes = captum_visualization.visualize_image_attr(resized[..., None], shown, **settings)
    return figure, axes


def _has_sign(values: NDArray[np.float32], sign: object) -> bool:
    if sign == "positive":
        return bool((values > 0).any())
    if sign == "negative":
        return bool((values < 0).any())
    return bool(values.any())
