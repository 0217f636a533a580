"""ProtoVAE and Pantypes: prototypes of a latent space that can be decoded into pictures."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from benchmarks.methods.systems.protovae import (
    ProtoVAE,
    Sizes,
    Spread,
    inverse_volume,
    non_orthonormality,
    train,
)
from benchmarks.methods.systems.tap import Tap
from benchmarks.methods.systems.training import draw, small
from benchmarks.quality.method import Method, Prototypes, UnavailableError
from benchmarks.quality.task import Task

__all__ = ["METHODS"]

_N_IMAGES = 5000
_BATCH = 200


class TrainedProtoVAE(Method):
    """An autoencoder on the pooled features of the task's network, which stays as it is.

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
        self.tap = Tap(task.model, images)
        features, decoded = self._features(images), small(images)
        channels, height, width = decoded.shape[1:]
        shape = (channels, height, width)
        self.net = ProtoVAE(features.shape[1], shape, task.n_classes, self._sizes)
        data = TensorDataset(features, decoded, labels)
        train(self.net, data, self._sizes, self._spread)
        if self._prunes:
            self.net.keep(self._nearest(features).unique())
        self.net.requires_grad_(False)

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        raise UnavailableError("its prototypes are of whole images and have no place in one")

    def predict(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.net(self._features(inputs))
        return found.argmax(1)

    def prototypes(self) -> Prototypes:
        return Prototypes(self.net.prototypes.detach(), self.net.classes)

    def embed(self, inputs: Tensor) -> Tensor:
        """Return the mean embeddings (N, D) that the prototypes are compared with."""
        return self.net.encode(self._features(inputs))[0]

    def _features(self, images: Tensor) -> Tensor:
        """Return the network's pooled features (N, depth)."""
        return torch.cat([self.tap.features(x).mean((2, 3)) for x in images.split(_BATCH)])

    @torch.no_grad()
    def _nearest(self, features: Tensor) -> Tensor:
        """Return the nearest prototype of each image (M,)."""
        return self.net.similarities(self.net.encode(features)[0]).argmax(1)


_SCALE = (
    "written from the paper; encodes the task's pooled features, frozen, by two layers into 16 "
    "dimensions (the paper trains an encoder from scratch, which 1,000 batches do not suffice "
    "for), 5 prototypes a class, 1,000 batches of 64 of at most 5,000 images, decoded at 32 "
    "pixels or fewer"
)

METHODS: dict[str, Callable[[], Method]] = {
    "ProtoVAE": lambda: TrainedProtoVAE(
        non_orthonormality, False, f"Gautam et al. (2022), {_SCALE}"
    ),
    "Pantypes": lambda: TrainedProtoVAE(
        inverse_volume, True, f"Kjærsgaard et al. (2024), {_SCALE}"
    ),
}
