"""Galleries of prototypes: the training patches they stand for, and how tight they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from captum_kmex.arguments import checked
from captum_kmex.bank.prototype_bank import Codebook, PrototypeBank
from captum_kmex.concepts import image_of
from captum_kmex.explaining.ledger import Patch, patches_of
from captum_kmex.text.class_names import ClassNames, class_name
from captum_kmex.visualization.colors import Color, segment_color
from captum_kmex.visualization.lettering import PLAIN, column_width, fitted
from captum_kmex.visualization.pictures import Canvas, canvas, draw_crop, draw_patch

__all__ = ["plot_prototypes"]

_GAP = 10.0  # points left free beside a text
_N_BARS = 4  # commonest classes shown of a class-agnostic prototype


class HasBank(Protocol):
    """What has been fitted: an attribution."""

    @property
    def bank_(self) -> PrototypeBank:
        """The prototypes; ``NotFittedError`` before a fit."""


@checked
def plot_prototypes(
    source: HasBank | PrototypeBank,
    dataset: Sequence[object],
    class_index: int | None = None,
    *,
    depth: int | str = 0,
    prototypes: Sequence[int] | None = None,
    n_patches: int = 4,
    class_names: ClassNames | None = None,
    figure: Canvas | None = None,
) -> tuple[Figure, NDArray[np.object_]]:
    """Draw prototypes, one a row: nearest training patches, in context and cropped.

    Each row begins with the prototype's number from 1 among those of its class, its count of
    rows, and the root mean square of their distances to it, in the units of the patches'
    distances; rows of class-agnostic prototypes go on with their commonest classes.

    Args:
        source: A fitted attribution or its bank.
        dataset: The training set of the fit: images (C, H, W), or tuples that begin with one.
        class_index: Class whose prototypes are drawn; of a class-agnostic bank, those of which
            it is the commonest class.
        depth: Which codebook, by position or name of its shallowest layer.
        prototypes: Which prototypes, instead of a class's.
        n_patches: Patches a prototype, at most.
        class_names: Names of the classes.
        figure: Where to draw.

    Returns:
        The figure and its axes (prototypes, 1 + patches): what is written, (a histogram,) and
        for each patch its image and its crop. Patches that are the whole image, as KMEx's are,
        have no crop.

    Raises:
        NotFittedError: The attribution is not fitted.
        ValueError: No representatives, no such prototype or depth, or neither class nor
            prototypes were given.
    """
    bank = source if isinstance(source, PrototypeBank) else source.bank_
    book = bank.codebooks[bank.depth(depth)]
    chosen = _chosen(book, class_index, prototypes)
    patches = [_patches(book, k, n_patches) for k in chosen]
    is_agnostic = book.is_agnostic
    has_crops = any(_is_part(patch, dataset) for row in patches for patch in row)
    widths = [1.15] + [1.0] * is_agnostic + [1.0] * (max(map(len, patches)) * (1 + has_crops))
    figure = canvas(figure, 1.1 * sum(widths), 1.22 * len(chosen) + 0.3)
    axes = figure.subplots(len(chosen), len(widths), squeeze=False, width_ratios=widths)
    for rank, (k, line, found) in enumerate(zip(chosen, axes, patches, strict=True)):
        _write_facts(book, k, line[0], class_names)
        if is_agnostic:
            _draw_classes(book, k, line[1], class_names)
        _draw_patches(found, dataset, segment_color(rank), line[1 + is_agnostic :], has_crops)
    return figure.figure, axes


def _patches(book: Codebook, k: int, count: int) -> list[Patch]:
    if book.representatives is None:
        raise ValueError("the bank has no representatives; fit with n_representatives > 0")
    return list(patches_of(book.representatives, k)[:count])


def _chosen(book: Codebook, class_index: int | None, prototypes: Sequence[int] | None) -> list[int]:
    """Return the prototypes to draw, a class's largest first."""
    count = len(book.centroids)
    if prototypes is not None:
        unknown = [k for k in prototypes if not 0 <= k < count]
        if unknown:
            raise ValueError(f"prototypes {unknown} are out of range for {count} prototypes")
        if not prototypes:
            raise ValueError(f"prototypes is empty; pass some of the {count}, or leave it out")
        return list(prototypes)
    if class_index is None:
        raise ValueError(f"pass class_index, or prototypes= to choose some of the {count}")
    own = (book.owners == class_index).nonzero().squeeze(1)
    if not len(own):
        raise ValueError(
            f"class {class_index} has no prototypes; the bank has classes "
            f"{book.owners.unique().tolist()[:20]}"
        )
    order = book.counts[own].argsort(descending=True, stable=True)
    found: list[int] = own[order].tolist()
    return found


def _write_facts(book: Codebook, k: int, ax: Axes, class_names: ClassNames | None) -> None:
    owner = book.membership[k]
    name = class_name(int(owner), class_names) if owner.ndim == 0 else "prototype"
    title = fitted(f"{{}} #{int(book.numbers[k])}", [name], column_width(ax) - _GAP, 9, "bold")
    facts = f"{int(book.counts[k]):,} rows\nrms distance {float(book.spread[k]) ** 0.5:.2f}"
    ax.axis("off")
    ax.text(0, 0.62, title, fontsize=9, weight="bold", transform=ax.transAxes, **PLAIN)
    ax.text(0, 0.5, facts, fontsize=9, va="top", transform=ax.transAxes)


def _draw_classes(book: Codebook, k: int, ax: Axes, class_names: ClassNames | None) -> None:
    """Draw the share of each class in a class-agnostic prototype."""
    shares = book.membership[k].cpu().numpy()
    order = (-shares).argsort(kind="stable")[:_N_BARS]
    ax.barh(range(len(order)), shares[order], color="0.8", height=0.75)  # colours are the rows'
    for y, c in enumerate(order):
        name = class_name(int(c), class_names, "")
        text = fitted(f"{{}} {shares[c]:.0%}", [name], column_width(ax) - _GAP, 9)
        ax.text(0.03, y, text, fontsize=9, va="center", **PLAIN)
    ax.set(xlim=(0, 1), ylim=(_N_BARS - 0.4, -0.6), xticks=[], yticks=[])
    ax.spines[["top", "right", "bottom"]].set_visible(False)


def _draw_patches(
    patches: Sequence[Patch],
    dataset: Sequence[object],
    color: Color,
    cells: Sequence[Axes],
    has_crops: bool,
) -> None:
    step = 1 + has_crops
    for ax in cells[step * len(patches) :]:
        ax.axis("off")
    for patch, first in zip(patches, range(0, len(cells), step), strict=False):
        draw_patch(patch, dataset, color, cells[first])
        cells[first].set_title(f"image {patch.index}, d = {patch.distance:.2f}", fontsize=9)
        if has_crops:
            draw_crop(patch, dataset, color, cells[first + 1])


def _is_part(patch: Patch, dataset: Sequence[object]) -> bool:
    """Return whether a patch is less than its image."""
    height, width = image_of(dataset, patch.index).shape[1:]
    return patch.box != (0, 0, width, height)
