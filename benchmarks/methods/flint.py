"""FLINT: an interpreter of the network's intermediate maps by a few learnt attributes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.methods.systems.flint import Budget, Interpreter, stacked, train
from benchmarks.methods.systems.training import draw, small
from benchmarks.quality.method import Method, UnavailableError
from benchmarks.quality.task import Task
from captum_kmex.model.activations import trace

__all__ = ["METHODS"]

_N_IMAGES = 5000
_BATCH = 100


class Flint(Method):
    """The post-hoc form of FLINT: the network stays as it is, the interpreter is trained."""

    family = "concepts"
    source = (
        "Parekh et al. (2021), written from the paper, its post-hoc form; 24 attributes of blocks "
        "B3 and B4 on a grid of 4 by 4, 20 epochs of at most 5,000 images, decoded at "
        "32 pixels or fewer"
    )
    seeded = True

    def __init__(self, budget: Budget | None = None) -> None:
        self._budget = budget or Budget()

    def fit(self, task: Task, seed: int) -> None:
        images, _ = draw(task, _N_IMAGES, seed)
        self._model, self._layers = task.model, list(task.layers[-2:])
        passed = [self._pass(part) for part in images.split(_BATCH)]
        maps, logits = (torch.cat(found) for found in zip(*passed, strict=True))
        decoded = small(images)
        channels, height, width = decoded.shape[1:]
        shape = (channels, height, width)
        self.net = Interpreter(maps.shape[1], shape, task.n_classes, self._budget)
        train(self.net, maps, decoded, logits, self._budget)
        self.net.requires_grad_(False)

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        raise UnavailableError("its attributes are of whole images and have no place in one")

    def predict(self, inputs: Tensor) -> Tensor:
        maps, _ = self._pass(inputs)
        found: Tensor = self.net(maps)
        return found.argmax(1)

    def _pass(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return stacked maps (N, width, grid, grid) and the network's logits (N, J)."""
        passed = trace(self._model, (images,), self._layers)
        blocks = [passed.features[name] for name in self._layers]
        return stacked(blocks, self._budget.grid).cpu(), passed.logits.cpu()


METHODS: dict[str, Callable[[], Method]] = {"FLINT": Flint}
