"""The demo's second part: a ResNet trained on MNIST, fitted with prototypes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from safetensors.torch import save
from torch.utils.data import DataLoader, TensorDataset

from captum_kmex.attributions.classifier_prototypes import ClassifierPrototypes
from captum_kmex.attributions.kmex import KMExAttribution
from captum_kmex.attributions.layer_kmeans import LayerKMeansAttribution
from captum_kmex.demo.digits import (
    DIGIT_LAYERS,
    DIGIT_WIDTH,
    load_digits_split,
    train_small_resnet,
)
from captum_kmex.explanation import Explanation
from captum_kmex.metrics.surrogate_scores import SurrogateScores, surrogate_scores
from captum_kmex.report import write_report
from captum_kmex.visualization import plot_comparison

__all__ = ["explain_digits"]

TRAINING_DIGITS = 2000
REPORTED = 40
_DEPTHS = {"B4": 2, "B34": 1, "B234": 0}


def explain_digits(folder: Path, epochs: int, show_progress: bool) -> str:
    """Train, fit and explain into a folder, and return what to say of it."""
    folder.mkdir(exist_ok=True)
    train, test = load_digits_split()
    train = TensorDataset(*train[:TRAINING_DIGITS])
    model = train_small_resnet(train, epochs, width=DIGIT_WIDTH, show_progress=show_progress)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(state))
    loaders = {"train": DataLoader(train, 200), "test": DataLoader(test, 200)}
    kmex = KMExAttribution(model).fit(loaders["train"], show_progress=show_progress)
    layers = LayerKMeansAttribution(model, DIGIT_LAYERS)
    layers.fit(loaders["train"], show_progress=show_progress)
    kmex.save(folder / "kmex.safetensors")
    layers.save(folder / "layers.safetensors")
    scores = {
        split: {"KMEx": surrogate_scores(kmex, loader)}
        | {name: surrogate_scores(layers, loader, depth=depth) for name, depth in _DEPTHS.items()}
        for split, loader in loaders.items()
    }
    columns = ClassifierPrototypes(model).alignment(loaders["test"])
    centroids = kmex.alignment(loaders["test"])
    (folder / "scores.json").write_text(json.dumps(scores, default=vars, indent=1))
    _figures(folder, layers, train, test)
    write_report(
        layers,
        [test[i] for i in range(REPORTED)],
        folder / "report.html",
        train_set=[train[i] for i in range(len(train))],
        title="A ResNet on MNIST",
        show_progress=False,
    )
    return "\n".join(
        [
            "## A ResNet on MNIST, fitted\n",
            f"{len(train)} training and {len(test)} test digits, {epochs} epochs, K = 5 a class.\n",
            *_score_table(scores),
            "",
            "Cosine with the own class and with the others (Table 1 of the paper), test digits: "
            f"head columns {columns.class_cosine:.2f} / {columns.out_cosine:.2f}, "
            f"KMEx prototypes {centroids.class_cosine:.2f} / {centroids.out_cosine:.2f}.\n",
            "Figure 1 of the paper: digits/figure1-B4.png, digits/figure1-B234.png; one digit in "
            "full with its ledger: digits/explained/0000.png.\n",
            f"{REPORTED} test digits with the training patches that they resemble, in one page: "
            "digits/report.html.\n",
            "The network is digits/model.safetensors, for `captum_kmex.demo.digit_resnet`; its "
            "banks are kmex.safetensors and layers.safetensors beside it.\n",
        ]
    )


def _score_table(scores: dict[str, dict[str, SurrogateScores]]) -> Iterable[str]:
    yield "| model | train accuracy | test accuracy | train fidelity | test fidelity |"
    yield "|---|---|---|---|---|"
    train, test = scores["train"], scores["test"]
    cnn = train["KMEx"].model_accuracy, test["KMEx"].model_accuracy
    yield f"| CNN | {cnn[0]:.1%} | {cnn[1]:.1%} | | |"
    for name, ours in train.items():
        theirs = test[name]
        yield (
            f"| {name} | {ours.accuracy:.1%} | {theirs.accuracy:.1%} | {ours.fidelity:.1%} | "
            f"{theirs.fidelity:.1%} |"
        )


def _figures(
    folder: Path, layers: LayerKMeansAttribution, train: TensorDataset, test: TensorDataset
) -> None:
    """Draw Figure 1 for B4 and B234, one test digit of each class, and save one in full."""
    images, labels = test.tensors
    first = torch.stack([(labels == c).nonzero()[0, 0] for c in range(10)])
    pictures = list(train.tensors[0])
    for name in ("B4", "B234"):
        result: Explanation = layers.explain(images[first], depth=_DEPTHS[name])
        figure, _ = plot_comparison([result], [name], range(10), dataset=pictures)
        figure.savefig(folder / f"figure1-{name}.png", dpi=130)
        plt.close(figure)
    layers.explain(images[first[:3]]).save(folder / "explained", dataset=pictures)
