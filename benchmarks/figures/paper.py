"""The figures of Boubekki & Clemmensen (2026) on the tasks of the benchmark."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.measures.formulas.embeddings import embed_test
from benchmarks.methods.captum_kmex import Columns, KMEx
from benchmarks.quality.method import UnavailableError
from benchmarks.quality.task import LabelledData, Task
from captum_kmex import LayerKMeansAttribution
from captum_kmex.alignment import rescaled
from captum_kmex.visualization import plot_comparison, plot_embeddings, prototype_handles

__all__ = ["draw_paper_figures"]

_N_FIT = 4000  # training images, at most
_N_SHOWN = 1000  # test images in Figure 2
_K = 5
_DEPTHS = {"B4": -1, "B234": 0}
_KINDS = (
    "head column",
    "head column, rescaled to the length of its class's embeddings",
    f"KMEx prototype (K={_K})",
)
_PROJECTIONS = {"pca": "PCA of the embeddings", "tsne": "t-SNE of all together"}


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


def _figure2(tasks: list[Task]) -> Figure:
    """Draw embeddings, the head's columns and KMEx prototypes: PCA and t-SNE, a row a task."""
    figure = Figure(figsize=(9.6, 4.5 * len(tasks) + 0.4), layout="constrained")
    panels = figure.subplots(len(tasks), 2, squeeze=False)
    for line, task in zip(panels, tasks, strict=True):
        rows, labels = embed_test(KMEx(_K), task)
        marks = _prototypes(task, rows, labels)
        for ax, (projection, title) in zip(line, _PROJECTIONS.items(), strict=True):
            plot_embeddings(
                rows,
                labels,
                marks,
                projection=projection,
                class_names=task.class_names,
                legend=False,
                ax=ax,
            )
            ax.set_title(f"{task.title}: {title}", fontsize=10)
    handles = prototype_handles(_KINDS)
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _prototypes(task: Task, rows: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    columns, kmex = Columns(), KMEx(_K)
    columns.fit(task, 0)
    kmex.fit(task, 0)
    raw, centroids = columns.prototypes(), kmex.prototypes()
    longer = rescaled(raw.vectors, raw.classes, rows, labels)
    vectors = (raw.vectors, longer, centroids.vectors)
    classes = (raw.classes, raw.classes, centroids.classes)
    return dict(zip(_KINDS, zip(vectors, classes, strict=True), strict=True))
