"""A plane of pooled embeddings with prototypes among them (Figure 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from torch import Tensor

from captum_kmex.arguments import checked
from captum_kmex.text.class_names import ClassNames, class_name
from captum_kmex.visualization.colors import segment_color
from captum_kmex.visualization.lettering import PLAIN, fitted

__all__ = ["plot_embeddings", "prototype_handles"]

_ROOM = 100.0  # points that a class's name takes at most
_MARKERS = (("X", 70), ("D", 45), ("o", 40), ("s", 45), ("^", 50))  # and areas


@dataclass(frozen=True)
class Plane:
    """Embeddings (M, 2) and each kind of prototypes (K, 2) in two dimensions.

    Attributes:
        points: The embeddings.
        marks: The prototypes, by name.
        axes: What the two directions are, if anything.
    """

    points: NDArray[np.float64]
    marks: dict[str, NDArray[np.float64]]
    axes: tuple[str, str] = ("", "")


@checked
def plot_embeddings(
    rows: Tensor,
    labels: Tensor,
    prototypes: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    *,
    projection: str = "pca",
    class_names: ClassNames | None = None,
    legend: bool = True,
    seed: int = 0,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Draw embeddings in a plane, coloured by class, with prototypes of the same space.

    Args:
        rows: Float tensor (M, D), such as ``pooled_embeddings`` returns.
        labels: Classes of the rows (M,).
        prototypes: Vectors (K, D) and their classes (K,), by name: the head's columns, raw and
            ``rescaled``, and KMEx's prototypes.
        projection: ``"pca"``: the two main directions of the rows, on which prototypes are
            projected; ``"tsne"``: neighbours among rows and prototypes together.
        class_names: Names of the classes.
        legend: Say below which mark is which kind of prototype, and beside the plane of a PCA,
            where classes cover each other, which colour is which class. t-SNE names them in it.
        seed: Seed of t-SNE.
        ax: Where to draw.

    Returns:
        The figure and its axes.

    Raises:
        ValueError: An unknown projection, or prototypes of another length than the rows.

    Reference:
        Boubekki & Clemmensen (2026), Figure 2.
    """
    marks = dict(prototypes or {})
    for name, (vectors, _) in marks.items():
        if vectors.ndim != 2 or vectors.shape[1] != rows.shape[1]:
            raise ValueError(
                f"prototypes {name!r} must be (K, {rows.shape[1]}) as the rows are; got "
                f"{tuple(vectors.shape)}"
            )
    places = {name: found.detach().cpu().numpy() for name, (found, _) in marks.items()}
    classes = {name: found.cpu().numpy() for name, (_, found) in marks.items()}
    data, own = rows.detach().cpu().numpy(), labels.cpu().numpy()
    plane = _pca(data, places) if projection == "pca" else _tsne(data, places, seed)
    if ax is None:
        _, ax = plt.subplots(figsize=(5.2, 4.8), layout="constrained")
    _draw_plane(plane, own, classes, ax)
    if projection == "tsne":
        _name_classes(plane, own, class_names, ax)
    if legend:
        _draw_legends(own if projection == "pca" else own[:0], class_names, list(marks), ax)
    return ax.figure.figure, ax


@checked
def prototype_handles(names: Sequence[str] | Mapping[str, object]) -> list[Line2D]:
    """Return a legend's entries for the kinds of prototypes, in the order they are drawn."""
    return [
        Line2D([], [], linestyle="none", marker=marker, color="0.45", markeredgecolor="black",
               markersize=size**0.5, label=name)
        for name, (marker, size) in zip(names, _marks(len(names)), strict=True)
    ]  # fmt: skip


def _marks(count: int) -> list[tuple[str, int]]:
    return [_MARKERS[i % len(_MARKERS)] for i in range(count)]


def _pca(rows: NDArray[np.float32], marks: Mapping[str, NDArray[np.float32]]) -> Plane:
    from sklearn.decomposition import PCA  # heavy, and needed here only

    pca = PCA(2, random_state=0).fit(rows)
    first, second = pca.explained_variance_ratio_
    axes = f"first component, {first:.0%}", f"second, {second:.0%}"
    return Plane(pca.transform(rows), {name: pca.transform(v) for name, v in marks.items()}, axes)


def _tsne(rows: NDArray[np.float32], marks: Mapping[str, NDArray[np.float32]], seed: int) -> Plane:
    from sklearn.manifold import TSNE

    vectors = np.concatenate([rows, *marks.values()])
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    found = TSNE(2, init="pca", perplexity=perplexity, random_state=seed).fit_transform(vectors)
    ends = np.cumsum([len(rows), *map(len, marks.values())])[:-1]
    points, *places = np.split(found, ends)
    return Plane(points, dict(zip(marks, places, strict=True)), ("t-SNE", ""))


def _draw_plane(
    plane: Plane, labels: NDArray[np.int64], classes: Mapping[str, NDArray[np.int64]], ax: Axes
) -> None:
    colors = [segment_color(c) for c in labels.tolist()]
    x, y = plane.points.T
    ax.scatter(x, y, s=6, c=colors, alpha=0.45, linewidths=0)
    for (marker, size), name in zip(_marks(len(classes)), classes, strict=True):
        found = [segment_color(c) for c in classes[name].tolist()]
        x, y = plane.marks[name].T
        ax.scatter(x, y, marker=marker, s=size, c=found, edgecolors="black",
                   linewidths=0.8, label=name)  # fmt: skip
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel(plane.axes[0], fontsize=9)
    ax.set_ylabel(plane.axes[1], fontsize=9)
    ax.margins(y=0.08)


def _name_classes(
    plane: Plane, labels: NDArray[np.int64], names: ClassNames | None, ax: Axes
) -> None:
    """Write each class's name above its embeddings."""
    halo = [withStroke(linewidth=2.5, foreground="white")]
    for c in np.unique(labels).tolist():
        x, y = plane.points[labels == c].T
        where = (float(np.median(x)), float(np.quantile(y, 0.8)))
        shown = fitted("{}", [class_name(c, names, "")], _ROOM, 9)
        ax.annotate(shown, where, (0, 9), textcoords="offset points",
                    ha="center", path_effects=halo, fontsize=9, **PLAIN)  # fmt: skip


def _draw_legends(
    labels: NDArray[np.int64], names: ClassNames | None, kinds: Sequence[str], ax: Axes
) -> None:
    """Say beside the plane which colour is which class, below it which mark is which kind."""
    dots = [
        Line2D([], [], linestyle="none", marker="o", color=segment_color(c), markersize=5,
               label=fitted("{}", [class_name(c, names, "")], _ROOM, 9))
        for c in np.unique(labels).tolist()
    ]  # fmt: skip
    if dots:
        beside = ax.legend(handles=dots, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9,
                           frameon=False, handletextpad=0.1, handlelength=1.2,
                           borderpad=0.2)  # fmt: skip
        for text in beside.get_texts():
            text.set(**PLAIN)
        ax.add_artist(beside)  # the next legend would replace it
        beside.set_clip_on(False)  # otherwise the layout leaves no room for it
    if kinds:
        below = ax.legend(handles=prototype_handles(kinds), loc="upper center", fontsize=9,
                          frameon=False, bbox_to_anchor=(0.5, -0.06), ncols=len(kinds),
                          handletextpad=0.3, columnspacing=1.2)  # fmt: skip
        below.set_clip_on(False)
