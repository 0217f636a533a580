"""Draw the pictures of docs/gallery.md: ``python docs/make_gallery.py`` (some minutes).

With names of pictures only these are written; the run ends with the last of them.

Needs the extras ``demo`` and ``bench``, Fashion-MNIST as docs/benchmarks.md says, and the project
on the path: ``PYTHONPATH=. python docs/make_gallery.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from captum.attr import InputXGradient, LayerGradCam
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.tasks import fashion_mnist, mnist
from benchmarks.tasks.data.small_pictures import load_small_resnet
from captum_kmex import ClassifierPrototypes, KMExAttribution, LayerKMeansAttribution
from captum_kmex.alignment import rescaled
from captum_kmex.demo import (
    DIGIT_LAYERS,
    PHOTO_LAYERS,
    load_efficientnet_lite0,
    load_photographs,
)
from captum_kmex.loading.zoos import imagenet_names
from captum_kmex.metrics.embedding import pooled_embeddings
from captum_kmex.metrics.wins import prototype_wins
from captum_kmex.visualization import (
    density,
    draw_map,
    draw_picture,
    evidence_scale,
    plot_comparison,
    plot_confusions,
    plot_contrast,
    plot_depths,
    plot_embeddings,
    plot_methods,
    plot_prototypes,
    visualize_image_attr,
)

FOLDER = Path(__file__).parent / "images" / "gallery"
LARGEST = 150_000  # bytes of a picture
DEPTHS = {"B4": 2, "B34": 1, "B234": 0}
CLOTHES = (
    "T-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
HERO = ("rocket", "cameraman", "coffee", "chelsea", "china", "flower")
CAPTUM_METHODS = ("heat_map", "blended_heat_map", "masked_image", "alpha_scaling")
Drawing = tuple[str, Figure]


def photographs() -> Iterator[Drawing]:
    """Draw an ImageNet network's explanations of photographs, unfitted."""
    names, pictures, inputs = load_photographs()
    net, classes = load_efficientnet_lite0(), imagenet_names()
    shown = {name: (inputs[i : i + 1], pictures[i]) for i, name in enumerate(names)}
    for name, count in (("coffee", 8), ("china", 20), ("flower", 40)):
        x, image = shown[name]
        result = LayerKMeansAttribution(net, PHOTO_LAYERS, n_clusters=count).explain(x)
        yield f"panel-{count}", result.plot(class_names=classes, image=image)[0]
    attr = LayerKMeansAttribution(net, PHOTO_LAYERS)
    x, image = shown["china"]
    depths = [attr.explain(x, depth=depth) for depth in DEPTHS.values()]
    yield "depths", plot_depths(depths, class_names=classes, image=image)[0]
    x, image = shown["chelsea"]
    pair = [attr.explain(x, c) for c in net(x)[0].topk(2).indices.tolist()]
    yield "contrast", plot_contrast(*pair, class_names=classes, image=image)[0]
    x = inputs[[names.index(name) for name in ("china", "coffee", "flower")]]
    target = net(x).argmax(1)
    maps = {
        "LayerKMeans": attr.attribute(x, target),
        "head's columns": ClassifierPrototypes(net).attribute(x, target),
        "Grad-CAM": LayerGradCam(net, net.bn2).attribute(x, target),
        "input x gradient": InputXGradient(net).attribute(x.clone().requires_grad_(), target),
    }
    order = [names.index(name) for name in HERO]
    shown = [pictures[i] for i in order]
    yield "measured", contrasted(net, inputs[order], shown, classes)
    tripod = inputs[names.index("cameraman")][None]
    yield "panel-measured", attr.explain(tripod, evidence="measured").plot(class_names=classes)[0]
    labels = [classes[c] for c in target.tolist()]
    yield "methods", plot_methods(x, maps, names=labels)[0]
    figure, axes = plt.subplots(1, 4, figsize=(8.8, 2.5), layout="constrained")
    for ax, method in zip(axes, CAPTUM_METHODS, strict=True):
        where = {"plt_fig_axis": (figure, ax), "method": method, "title": method}
        visualize_image_attr(maps["LayerKMeans"], x, 1, **where)
    yield "captum", figure


def contrasted(
    net: torch.nn.Module,
    inputs: torch.Tensor,
    pictures: Sequence[NDArray[np.uint8]],
    classes: Sequence[str],
) -> Figure:
    """Draw Grad-CAM above evidence that is allocated and evidence that is measured."""
    attr = LayerKMeansAttribution(net, PHOTO_LAYERS)
    target = net(inputs).argmax(1)
    maps = {
        "Grad-CAM": LayerGradCam(net, net.bn2).attribute(inputs, target),
        "one pass": attr.attribute(inputs, target),
        "measured": attr.attribute(inputs, target, evidence="measured"),
    }
    size = 1.55 * len(pictures) + 0.3, 6.4
    figure, axes = plt.subplots(4, len(pictures), figsize=size, layout="constrained")
    for picture, c, ax in zip(pictures, target.tolist(), axes[0], strict=True):
        draw_picture(picture / 255, ax)
        ax.set_title(classes[c], fontsize=10)
    for line, (name, found) in zip(axes[1:], maps.items(), strict=True):
        line[0].set_ylabel(name, fontsize=10)
        smooth = interpolate(found.detach(), pictures[0].shape[:2], mode="bilinear")
        for values, picture, ax in zip(smooth, pictures, line, strict=True):
            draw_map(density(values), picture / 255, ax, evidence_scale([values]), is_signed=True)
    return figure


def small_pictures() -> Iterator[Drawing]:
    """Draw what a fit knows of small pictures: MNIST and Fashion-MNIST."""
    digits, clothes = mnist.load_data(), fashion_mnist.load_data()
    net = load_small_resnet("mnist", 1, 10)
    train, test = first(digits.train), first(digits.test, 1000)
    attr = LayerKMeansAttribution(net, DIGIT_LAYERS).fit(DataLoader(train, 200))
    x, y = test.tensors
    x = x[torch.stack([(y == c).nonzero()[0, 0] for c in range(10)])]
    result = attr.explain(x)
    scale = evidence_scale(result.attribution)
    yield "panel-fitted", result.plot(3, dataset=train, scale=scale)[0]
    results = [attr.explain(x, depth=DEPTHS[name]) for name in ("B4", "B234")]
    grid = plot_comparison(results, ["B4", "B234"], [2, 5, 8], dataset=train, n_patches=3,
                           scale="shared")  # fmt: skip
    yield "comparison", grid[0]
    net = load_small_resnet("fashion_mnist", 1, 10)
    train, test = first(clothes.train), first(clothes.test, 1000)
    attr = LayerKMeansAttribution(net, DIGIT_LAYERS).fit(DataLoader(train, 200))
    yield "prototypes", plot_prototypes(attr, train, 8, n_patches=3, class_names=CLOTHES)[0]
    wins = prototype_wins(attr, DataLoader(test, 200))
    yield "confusions", plot_confusions(wins, class_names=CLOTHES)[0]
    one = LayerKMeansAttribution(net, DIGIT_LAYERS, n_prototypes=40)
    one.fit(DataLoader(train, 200), labels=None)
    gallery = plot_prototypes(one, train, 7, n_patches=3, class_names=CLOTHES)
    yield "prototypes-agnostic", gallery[0]
    yield "embeddings", embeddings(net, train, test)


def embeddings(net: torch.nn.Module, train: TensorDataset, test: TensorDataset) -> Figure:
    """Draw test images, the head's columns and KMEx prototypes, by PCA and by t-SNE."""
    kmex = KMExAttribution(net).fit(DataLoader(train, 200))
    rows, labels = pooled_embeddings(kmex, DataLoader(test, 200))
    head = ClassifierPrototypes(net)
    head.attribute(test.tensors[0][:1])
    columns, classes = head.prototypes, torch.arange(10)
    marks = {
        "head's column": (columns, classes),
        "the same, rescaled": (rescaled(columns, classes, rows, labels), classes),
        "KMEx prototype": (kmex.prototypes, kmex.prototype_classes),
    }
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.4), layout="constrained")
    for ax, projection in zip(axes, ("pca", "tsne"), strict=True):
        plot_embeddings(rows, labels, marks, projection=projection, class_names=CLOTHES, ax=ax)
    return figure


def first(data: TensorDataset, count: int = 3000) -> TensorDataset:
    """Return the first images of a split."""
    return TensorDataset(*(tensor[:count] for tensor in data.tensors))


def save(name: str, figure: Figure, suffix: str) -> None:
    """Write a picture, and refuse a large one."""
    path = FOLDER / f"{name}.{suffix}"
    options = {"quality": 80, "subsampling": 0} if suffix == "jpg" else {"optimize": True}
    figure.savefig(path, dpi=90, pil_kwargs=options)
    plt.close(figure)
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; draw less, or a smaller figure")


def main(wanted: set[str]) -> None:
    """Draw all pictures, or write those that are wanted and stop."""
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    left = set(wanted)
    for part, suffix in ((photographs, "jpg"), (small_pictures, "png")):
        for name, figure in part():
            if not wanted or name in left:
                save(name, figure, suffix)
            left.discard(name)
            if wanted and not left:
                return
    if left:
        raise SystemExit(f"no picture is named {', '.join(sorted(left))}")


if __name__ == "__main__":
    main(set(sys.argv[1:]))
