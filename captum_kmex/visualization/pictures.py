"""Pictures on axes: the image itself, a training image with its patch, the patch alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from captum_kmex.arguments import checked
from captum_kmex.concepts import crop_box, image_of
from captum_kmex.explaining.ledger import Patch
from captum_kmex.visualization.colors import Color

__all__ = ["Canvas", "Picture", "bare", "canvas", "draw_crop", "draw_patch", "draw_picture",
           "picture", "relative_height", "shade"]  # fmt: skip

Picture = NDArray[np.float64]
Canvas = Figure | SubFigure


@checked
def picture(image: Tensor | NDArray[np.number]) -> Picture:
    """Return an image as (H, W) or (H, W, 3) in [0, 1], whatever its normalisation.

    Args:
        image: Float tensor (C, H, W), stretched from its 0.5th to its 99.5th percentile; or a
            picture (H, W[, 3]), returned as floats.
    """
    if isinstance(image, np.ndarray):
        return image.astype(np.float64) / (255 if image.dtype == np.uint8 else 1)
    array = image.detach().cpu().double().numpy()
    low, high = np.percentile(array, (0.5, 99.5))
    array = np.clip((array - low) / max(high - low, 1e-12), 0, 1)
    stretched = array.mean(0) if array.shape[0] != 3 else array.transpose(1, 2, 0)
    return np.asarray(stretched)


def shade(image: Picture, strength: float) -> Picture:
    """Return how much a picture darkens the colours that it lies over (H, W).

    Grey pictures on black, such as digits, are turned round, as in print: their ground would
    hide the colours.

    Args:
        image: Picture (H, W[, 3]).
        strength: What black takes from the colours, 0 to 1.
    """
    grey = image if image.ndim == 2 else image.mean(2)
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    is_drawing = image.ndim == 2 and np.median(edge) < 0.1
    return np.asarray(strength * np.clip(0.6 * grey if is_drawing else 1 - grey, 0, 1))


def relative_height(image: Picture) -> float:
    """Return height over width of a picture's place in a figure: its own, within limits."""
    return float(min(1.5, max(0.4, image.shape[0] / image.shape[1])))


def canvas(figure: Canvas | None, width: float, height: float) -> Canvas:
    """Return the figure to draw in: the one given, or a new one of pyplot's of a size in inches."""
    if figure is not None:
        return figure
    return plt.figure(figsize=(width, height), layout="constrained")


def bare(ax: Axes) -> None:
    """Take ticks and frame away."""
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


@checked
def draw_picture(image: Picture, ax: Axes) -> None:
    """Draw a picture in its own pixels."""
    ax.imshow(image, cmap="gray", vmin=0, vmax=1)
    bare(ax)


@checked
def draw_patch(patch: Patch, dataset: Sequence[object], color: Color, ax: Axes) -> None:
    """Draw a training image with a prototype's patch boxed, framed in the segment's colour.

    Args:
        patch: Which image and box.
        dataset: The training set: images (C, H, W), or tuples that begin with one.
        color: Colour of box and frame.
        ax: Where to draw.
    """
    draw_picture(picture(image_of(dataset, patch.index)), ax)
    _draw_box(patch, (0, 0), color, ax)
    _frame(ax, color)


@checked
def draw_crop(
    patch: Patch, dataset: Sequence[object], color: Color, ax: Axes, context: float = 0.25
) -> None:
    """Draw a prototype's patch alone, with a little of what is around it.

    Args:
        patch: Which image and box.
        dataset: The training set: images (C, H, W), or tuples that begin with one.
        color: Colour of the frame.
        ax: Where to draw.
        context: Least side of the crop, as a share of the image's.
    """
    shown = picture(image_of(dataset, patch.index))
    rows, columns = crop_box(patch.box, (shown.shape[0], shown.shape[1]), context)
    draw_picture(shown[rows, columns], ax)
    _draw_box(patch, (columns.start, rows.start), color, ax)
    _frame(ax, color)


def _draw_box(patch: Patch, origin: tuple[int, int], color: Color, ax: Axes) -> None:
    """Draw a patch's box on a picture that begins at a pixel x, y of the image."""
    x0, y0, x1, y1 = patch.box
    place = (x0 - origin[0] - 0.5, y0 - origin[1] - 0.5), x1 - x0, y1 - y0
    ax.add_patch(Rectangle(*place, fill=False, ec="black", lw=2.6))  # seen on any picture
    ax.add_patch(Rectangle(*place, fill=False, ec=color, lw=1.4))


def _frame(ax: Axes, color: Color) -> None:
    for spine in ax.spines.values():
        spine.set(visible=True, color=color, linewidth=3)
