"""Which classes' prototypes win which classes' pixels, and which prototypes are confusable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from captum_kmex.arguments import checked
from captum_kmex.bank.codebook import owners, prototype_numbers
from captum_kmex.explaining.pixel_wins import PrototypeWins
from captum_kmex.text.class_names import ClassNames, class_name, read_class_names
from captum_kmex.visualization.lettering import PLAIN, fitted
from captum_kmex.visualization.pictures import Canvas, canvas

__all__ = ["plot_confusions"]

_BAR = "#6baed6"  # a blue of the shares beside
_ROOM = 80.0  # points that a class's name takes at most
_WRITTEN = 12  # classes up to which the numbers fit into the cells


@checked
def plot_confusions(
    wins: PrototypeWins,
    *,
    class_names: ClassNames | None = None,
    n_prototypes: int = 12,
    figure: Canvas | None = None,
) -> tuple[Figure, NDArray[np.object_]]:
    """Draw whose prototypes win whose pixels, and the prototypes that win most foreign ones.

    Args:
        wins: What ``prototype_wins`` counted.
        class_names: Names of the classes.
        n_prototypes: Prototypes listed: those that win the most pixels of other classes' images.
        figure: Where to draw.

    Returns:
        The figure and its two axes: class by class shares, and the prototypes.
    """
    n_classes = len(wins.counts)
    side = min(9.0, max(3.6, 0.46 * n_classes))
    figure = canvas(figure, 1.75 * side + 1.6, side + 0.7)
    axes = figure.subplots(1, 2, width_ratios=[1.25, 1])
    given = None if class_names is None else read_class_names(class_names)
    names = [fitted("{}", [class_name(c, given, "")], _ROOM, 9) for c in range(n_classes)]
    _draw_matrix(wins.class_shares().numpy(), names, axes[0])
    _draw_prototypes(wins, names, n_prototypes, axes[1])
    return figure.figure, axes


def _draw_matrix(shares: NDArray[np.float64], names: Sequence[str], ax: Axes) -> None:
    drawn = ax.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    small = 9 if len(names) <= _WRITTEN else 6  # of very many, as small as the cells
    ax.set_xticks(range(len(names)), names, fontsize=small, rotation=90 if _long(names) else 0,
                  **PLAIN)  # fmt: skip
    ax.set_yticks(range(len(names)), names, fontsize=small, **PLAIN)
    ax.set_xlabel("prototypes of", fontsize=9)
    ax.set_ylabel("images of", fontsize=9)
    ax.set_title("pixels won, % of each class's", fontsize=9)
    if len(names) > _WRITTEN:
        ax.figure.colorbar(drawn, ax=ax, shrink=0.7).ax.tick_params(labelsize=9)
        return
    for (row, column), share in np.ndenumerate(shares):
        if np.isfinite(share):
            color = "white" if share > 0.55 else "black"
            ax.text(column, row, f"{100 * share:.0f}", fontsize=9, color=color, ha="center",
                    va="center")  # fmt: skip


def _draw_prototypes(wins: PrototypeWins, names: Sequence[str], count: int, ax: Axes) -> None:
    """Draw the share of foreign pixels of the prototypes that win most of them."""
    foreign, rivals = wins.foreign_shares().numpy(), wins.rivals().tolist()
    most = np.nan_to_num(foreign) * wins.counts.sum(0).numpy()
    chosen = (-most).argsort(kind="stable")[:count]
    chosen = chosen[(-foreign[chosen]).argsort(kind="stable")]
    owner, numbers = owners(wins.membership), prototype_numbers(wins.membership)
    shares = 100 * np.nan_to_num(foreign[chosen])
    ax.barh(range(len(chosen)), shares, color=_BAR, height=0.7)
    for y, (k, share) in enumerate(zip(chosen, shares, strict=True)):
        ax.text(share + 1, y, f"{share:.0f} %, most of {names[rivals[k]]}", fontsize=9,
                va="center", **PLAIN)  # fmt: skip
    labels = [f"{names[int(owner[k])]} #{int(numbers[k])}" for k in chosen]
    ax.set_yticks(range(len(chosen)), labels, fontsize=9, **PLAIN)
    ax.set_xlim(0, 145)
    ax.set_xticks([0, 50, 100])
    ax.tick_params(axis="x", labelsize=9)
    ax.invert_yaxis()
    ax.set_xlabel("share of their pixels from other classes' images, %", fontsize=9)
    ax.set_title("prototypes that win most pixels of other classes", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines["bottom"].set_bounds(0, 100)


def _long(names: Sequence[str]) -> bool:
    return max(map(len, names)) > 2
