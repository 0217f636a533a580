"""ProtoVAE and Pantypes: classifiers of their own, whose prototypes can be decoded."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.evaluation.method import Method, Prototypes, UnavailableError
from benchmarks.evaluation.task import Task
from benchmarks.methods._protovae import (
    ProtoVAE,
    Sizes,
    Spread,
    inverse_volume,
    non_orthonormality,
    train,
)
from benchmarks.methods._training import draw

__all__ = ["METHODS"]

_N_IMAGES = 5000
_SIDE = 64  # pixels; an encoder of three convolutions is for small pictures


class TrainedProtoVAE(Method):
    """An autoencoder trained from scratch; it shares nothing with the task's network.

    Args:
        spread: What keeps the prototypes of a class apart.
        prunes: Remove prototypes that are no training image's nearest one.
        source: Where it comes from.
        sizes: Sizes of the network.
    """

    family = "prototypes"
    seeded = True

    def __init__(
        self, spread: Spread, prunes: bool, source: str, sizes: Sizes | None = None
    ) -> None:
        self._spread, self._prunes, self.source = spread, prunes, source
        self._sizes = sizes or Sizes()

    def fit(self, task: Task, seed: int) -> None:
        images, labels = draw(task, _N_IMAGES, seed)
        channels, height, width = images.shape[1:]
        if max(height, width) > _SIDE:
            raise UnavailableError(f"written for pictures of up to {_SIDE} pixels a side")
        self.net = ProtoVAE((channels, height, width), task.n_classes, self._sizes)
        train(self.net, images, labels, self._sizes, self._spread)
        if self._prunes:
            self.net.keep(self._nearest(images).unique())
        self.net.requires_grad_(False)

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        raise UnavailableError("its prototypes are of whole images and have no place in one")

    def predict(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.net(inputs)
        return found.argmax(1)

    def prototypes(self) -> Prototypes:
        return Prototypes(self.net.prototypes.detach(), self.net.classes)

    def embed(self, inputs: Tensor) -> Tensor:
        """Return the mean embeddings (N, D) that the prototypes are compared with."""
        return self.net.encode(inputs)[0]

    @torch.no_grad()
    def _nearest(self, images: Tensor) -> Tensor:
        found = [self.net.similarities(self.embed(x)).argmax(1) for x in images.split(200)]
        return torch.cat(found)


_SCALE = (
    "written from the paper; an encoder of three convolutions and 64 latent dimensions, 5 "
    "prototypes a class, 20 epochs of at most 5,000 images, trained from scratch"
)

METHODS: dict[str, Callable[[], Method]] = {
    "ProtoVAE": lambda: TrainedProtoVAE(
        non_orthonormality, False, f"Gautam et al. (2022), {_SCALE}"
    ),
    "Pantypes": lambda: TrainedProtoVAE(
        inverse_volume, True, f"Kjærsgaard et al. (2024), {_SCALE}"
    ),
}
