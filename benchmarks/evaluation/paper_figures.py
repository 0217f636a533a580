"""The figures of Boubekki & Clemmensen (2026) on the tasks of the benchmark."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.evaluation.method import Prototypes, UnavailableError
from benchmarks.evaluation.task import LabelledData, Task
from benchmarks.measures._embeddings import embed_test
from benchmarks.measures.alignment import rescaled
from benchmarks.methods.captum_kmex import Columns, KMEx
from captum_kmex import LayerKMeansAttribution
from captum_kmex.visualization import plot_comparison

__all__ = ["draw_paper_figures"]

_N_FIT = 4000  # training images, at most
_N_SHOWN = 1000  # test images in Figure 2
_K = 5
_DEPTHS = {"B4": -1, "B234": 0}
_SHAPES = {  # marker and area of each kind of prototype
    "head column": ("X", 70),
    "head column, rescaled to the length of its class's embeddings": ("D", 45),
    f"KMEx prototype (K={_K})": ("o", 40),
}
# ten classes: Okabe & Ito (2008) and two of Tol's (2021); the classes are named as well
_COLORS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9",
    "#D55E00", "#999933", "#882255", "#44AA99", "#666666",
)  # fmt: skip


def draw_paper_figures(tasks: Iterable[Task], folder: Path) -> list[Path]:
    """Draw Figures 1 and 2 for the tasks that have training and test images.

    Args:
        tasks: The tasks; prototypes are fitted on their first few thousand training images.
        folder: Where the PNG files go.

    Returns:
        The files: ``figure2.png`` of all tasks, and ``figure1-TASK-DEPTH.png``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    usable = [_smaller(t) for t in tasks if t.train is not None and t.test is not None]
    paths = [path for task in usable for path in _figure1(task, folder)]
    if usable:
        paths.append(folder / "figure2.png")
        with mpl.rc_context({"font.size": 9}):
            _figure2(usable).savefig(paths[-1], dpi=130)
    return paths


def _smaller(task: Task) -> Task:
    return replace(task, train=_first(task.train, _N_FIT), test=_first(task.test, _N_SHOWN))


def _first(data: LabelledData | None, count: int) -> TensorDataset:
    """Return so many images of a split, in memory."""
    if data is None:
        raise UnavailableError("the task has no images of that split")
    parts = zip(*islice(DataLoader(data, 100), count // 100), strict=True)
    return TensorDataset(*(torch.cat(part) for part in parts))


def _figure1(task: Task, folder: Path) -> list[Path]:
    """Draw segments, nearest training patches and evidence of a test image of each class."""
    images, labels = _first(task.test, _N_SHOWN).tensors
    first = torch.stack([(labels == c).nonzero()[0, 0] for c in labels.unique()])
    attribution = LayerKMeansAttribution(task.model, task.layers, n_prototypes=_K)
    train = _first(task.train, _N_FIT)
    attribution.fit(DataLoader(train, 128))
    pictures = [task.pictures(x[None])[0] for x in train.tensors[0]]
    paths = []
    for name, depth in _DEPTHS.items():
        explained = attribution.explain(images[first], depth=depth)
        shown = replace(explained, inputs=task.pictures(explained.inputs))
        figure, axes = plot_comparison([shown], [name], range(len(first)), dataset=pictures)
        for ax, label, target in zip(axes[:, 0], labels[first], explained.target, strict=True):
            names = [task.class_names[int(c)] for c in (label, target)]
            ax.set_ylabel("\npredicted ".join(dict.fromkeys(names)), fontsize=8)
        paths.append(folder / f"figure1-{task.name}-{name}.png")
        figure.savefig(paths[-1], dpi=130)
        plt.close(figure)
    return paths


@dataclass(frozen=True)
class Plane:
    """Embeddings (M, 2) and each kind of prototypes (2, K) in two dimensions, with classes."""

    points: NDArray[np.float64]
    labels: NDArray[np.int64]
    prototypes: dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]


def _figure2(tasks: list[Task]) -> Figure:
    """Draw embeddings, the head's columns and KMEx prototypes: PCA and t-SNE, a row a task."""
    figure = Figure(figsize=(9.6, 4.5 * len(tasks) + 0.4), layout="constrained")
    panels = figure.subplots(len(tasks), 2, squeeze=False)
    for line, task in zip(panels, tasks, strict=True):
        rows, labels = embed_test(KMEx(_K), task)
        marks = _prototypes(task, rows, labels)
        planes = {"PCA of the embeddings": _pca, "t-SNE of all together": _tsne}
        for axes, (title, project) in zip(line, planes.items(), strict=True):
            plane = project(rows, labels, marks)
            _draw_plane(axes, plane)
            if project is _tsne:  # in the other, classes cover each other
                _name_classes(axes, plane, task.class_names)
            axes.set_title(f"{task.title}: {title}", fontsize=10)
    handles = [
        Line2D([], [], linestyle="none", marker=shape, color="0.45", markeredgecolor="black",
               markersize=size**0.5, label=name)
        for name, (shape, size) in _SHAPES.items()
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _prototypes(task: Task, rows: Tensor, labels: Tensor) -> dict[str, Prototypes]:
    columns, kmex = Columns(), KMEx(_K)
    columns.fit(task, 0)
    kmex.fit(task, 0)
    raw = columns.prototypes()
    names = list(_SHAPES)
    return dict(zip(names, (raw, rescaled(rows, labels, raw), kmex.prototypes()), strict=True))


def _pca(rows: Tensor, labels: Tensor, marks: dict[str, Prototypes]) -> Plane:
    """Project everything on the two main directions of the embeddings."""
    pca = PCA(2).fit(rows.numpy())
    places = {
        name: (pca.transform(found.vectors.numpy()).T, found.classes.numpy())
        for name, found in marks.items()
    }
    return Plane(pca.transform(rows.numpy()), labels.numpy(), places)


def _tsne(rows: Tensor, labels: Tensor, marks: dict[str, Prototypes]) -> Plane:
    """Lay out embeddings and prototypes together, by their distances in the embedding."""
    vectors = torch.cat([rows, *(found.vectors for found in marks.values())]).numpy()
    found = TSNE(2, init="pca", random_state=0).fit_transform(vectors)
    ends = np.cumsum([len(rows), *(len(m.vectors) for m in marks.values())])
    parts = np.split(found, ends[:-1])
    places = {
        name: (part.T, mark.classes.numpy())
        for part, (name, mark) in zip(parts[1:], marks.items(), strict=True)
    }
    return Plane(parts[0], labels.numpy(), places)


def _draw_plane(axes: Axes, plane: Plane) -> None:
    colors, (x, y) = np.array(_COLORS), plane.points.T
    axes.scatter(x, y, s=6, c=colors[plane.labels % len(colors)], alpha=0.4, linewidths=0)
    for kind, ((x, y), classes) in plane.prototypes.items():
        shape, size = _SHAPES[kind]
        found = colors[classes % len(colors)]
        axes.scatter(x, y, marker=shape, s=size, c=found, edgecolors="black", linewidths=0.8)
    axes.set(xticks=[], yticks=[])
    axes.margins(y=0.08)


def _name_classes(axes: Axes, plane: Plane, names: tuple[str, ...]) -> None:
    """Write each class's name above its images."""
    halo = [withStroke(linewidth=2.5, foreground="white")]
    for c in np.unique(plane.labels):
        x, y = plane.points[plane.labels == c].T
        where = (float(np.median(x)), float(np.quantile(y, 0.8)))
        axes.annotate(names[c], where, (0, 9), textcoords="offset points", ha="center",
                      path_effects=halo, fontsize=9)  # fmt: skip
