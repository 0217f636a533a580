"""Train the networks of the tasks.

Small networks are kept in ``benchmarks/checkpoints``, those of your own pictures in torch's cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.quality.task import LabelledData
from benchmarks.tasks import (
    cub200,
    fashion_mnist,
    image_folder,
    mnist,
    parts,
    patch_deletion,
    stl10,
)
from benchmarks.tasks.data.pictures import PictureData
from benchmarks.tasks.data.resnet34 import (
    EPOCHS,
    WEIGHTS,
    save_trained_resnet34,
    train_resnet34,
)
from benchmarks.tasks.data.small_pictures import SmallData, save_small_resnet
from captum_kmex.demo import train_small_resnet

__all__ = ["PICTURES", "add_recipe", "main", "train_pictures"]

RECIPES: dict[str, tuple[Callable[[], SmallData], int]] = {  # data and epochs
    "mnist": (mnist.load_data, 5),
    "fashion_mnist": (fashion_mnist.load_data, 4),
    "parts": (parts.load_data, 6),
}
RECIPES |= {
    name: (partial(patch_deletion.training_data, name), source.epochs)
    for name, source in patch_deletion.SOURCES.items()
}

PICTURES: dict[str, Callable[[], PictureData]] = {
    "stl10": stl10.load_data,
    "cub200": cub200.load_data,
    "image_folder": image_folder.load_data,
}


def main(words: Sequence[str]) -> None:
    """Train the networks that were asked for, seed 0, and print their validation accuracy."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks train", description=__doc__)
    parser.add_argument("name", nargs="+", choices=[*RECIPES, *PICTURES])
    add_recipe(parser)
    options = parser.parse_args(words)
    for name in options.name:
        try:
            if name in RECIPES:
                path, accuracy = _train_small(name)
            else:
                path, accuracy = train_pictures(name, options.weights, options.epochs)
        except (FileNotFoundError, ValueError) as error:
            parser.exit(1, f"{name}: {error}\n")
        print(f"{path}: validation accuracy {accuracy:.4f}")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``train_pictures``."""
    parser.add_argument(
        "--weights", default=WEIGHTS, metavar="WHAT",
        help="what a ResNet34 begins with: imagenet (the default), none, or a file of weights",
    )  # fmt: skip
    parser.add_argument(
        "--epochs", type=int, default=EPOCHS, help=f"passes over the pictures ({EPOCHS})"
    )


def _train_small(name: str) -> tuple[Path, float]:
    torch.set_num_threads(1)  # faster than two
    load, epochs = RECIPES[name]
    data = load()
    model = train_small_resnet(data.train, epochs)
    if name in patch_deletion.SOURCES:  # three more files, of half the size
        model.half()
    return save_small_resnet(name, model), _accuracy(model.float(), data.validation)


def train_pictures(name: str, weights: str, epochs: int) -> tuple[Path, float]:
    """Train a task's ResNet34 and keep it; return its path and its validation accuracy.

    Raises:
        FileNotFoundError: The pictures or the weights are not there; the message says what to do.
        ValueError: The weights are no ResNet34's.
    """
    data = PICTURES[name]()
    if data.train is None:
        raise FileNotFoundError("there are no training pictures")
    model = train_resnet34(data.train, len(data.class_names), epochs, weights=weights)
    recipe = {"weights": weights, "epochs": str(epochs)}
    return save_trained_resnet34(name, model, recipe), _accuracy(model, data.validation)


@torch.no_grad()
def _accuracy(model: nn.Module, data: LabelledData) -> float:
    right = [model(x).argmax(1) == y for x, y in DataLoader(data, batch_size=100)]
    return float(torch.cat(right).double().mean())
