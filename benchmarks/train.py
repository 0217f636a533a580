"""Train the small networks of the tasks and keep them in ``benchmarks/checkpoints``.

Run as ``python -m benchmarks.train NAME``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from benchmarks.tasks import fashion_mnist, mnist, parts
from benchmarks.tasks._small import SmallData, save_small_resnet
from captum_kmex.demo import train_small_resnet

RECIPES: dict[str, tuple[Callable[[], SmallData], int]] = {  # data and epochs
    "mnist": (mnist.load_data, 5),
    "fashion_mnist": (fashion_mnist.load_data, 4),
    "parts": (parts.load_data, 8),
}


def main() -> None:
    """Train the networks that were asked for, seed 0, and print their validation accuracy."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    parser.add_argument("name", nargs="+", choices=list(RECIPES))
    for name in parser.parse_args().name:
        load, epochs = RECIPES[name]
        data = load()
        model = train_small_resnet(data.train, epochs)
        images, labels = data.validation.tensors
        with torch.no_grad():
            found = torch.cat([model(part).argmax(1) for part in images.split(500)])
        path = save_small_resnet(name, model)
        print(f"{path}: validation accuracy {(found == labels).double().mean():.4f}")


if __name__ == "__main__":
    main()
