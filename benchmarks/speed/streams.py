"""Labelled feature maps that a fit reads as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.speed.mixtures import Rows, student_mixture
from benchmarks.speed.naive import naive_rows
from benchmarks.speed.setting import LAYERS

__all__ = ["Stream", "digit_features", "heavy_embeddings"]


@dataclass(frozen=True, eq=False)
class Stream:
    """Feature maps and labels.

    Attributes:
        features: Float tensor (N, D, h, w).
        labels: Integer tensor (N,).
        batch: Images of a batch.
    """

    features: Tensor
    labels: Tensor
    batch: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches in their order."""
        yield from zip(self.features.split(self.batch), self.labels.split(self.batch), strict=True)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1

    @property
    def model(self) -> nn.Module:
        """A classifier whose features are its input."""
        torch.manual_seed(0)
        head = nn.Linear(self.features.shape[1], self.classes)
        pool = nn.AdaptiveAvgPool2d(1)
        return nn.Sequential(nn.Identity(), pool, nn.Flatten(), head).eval()

    def images(self, c: int) -> Rows:
        """Return the rows of each image of a class (n, h*w, D)."""
        own = self.features[self.labels == c]
        rows: Rows = own.permute(0, 2, 3, 1).flatten(1, 2).numpy()
        return rows

    def rows(self, c: int) -> Rows:
        """Return all rows of a class (M, D)."""
        return np.ascontiguousarray(self.images(c).reshape(-1, self.features.shape[1]))


@lru_cache
def digit_features(side: int, epochs: int) -> Stream:
    """Return the stacked unit rows of layers 2-4 of a ResNet18 that learnt the digits 0 to 2."""
    digits = load_digits(n_class=3)
    labels = torch.from_numpy(digits.target).long()
    small = torch.from_numpy(digits.images).float().unsqueeze(1) / 8 - 1
    images = F.interpolate(small, side, mode="bilinear").expand(-1, 3, -1, -1)
    network = _trained(images, labels, epochs)
    kept: dict[str, Tensor] = {}
    for name in LAYERS:
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: kept.update({name: output})
        )
    maps = []
    with torch.no_grad():
        for batch in images.split(32):
            network(batch)
            rows = F.normalize(naive_rows([kept[name] for name in LAYERS]), dim=1)
            grid = kept[LAYERS[0]].shape[2:]
            maps.append(rows.view(len(batch), *grid, -1).permute(0, 3, 1, 2).contiguous())
    return Stream(torch.cat(maps), labels, 32)


def _trained(images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = torchvision.models.resnet18(num_classes=3)
    optimiser = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(32):
            optimiser.zero_grad()
            F.cross_entropy(network(images[chosen]), labels[chosen]).backward()
            optimiser.step()
    return network.eval()


@lru_cache
def heavy_embeddings(count: int, width: int) -> Stream:
    """Return pooled embeddings of two classes with heavy tails, t(2.2), as maps of one pixel."""
    generator = np.random.default_rng(0)
    rows = [student_mixture(count, width, 2.2, generator) for _ in range(2)]
    order = torch.from_numpy(generator.permutation(2 * count))
    features = torch.from_numpy(np.concatenate(rows))[order]
    return Stream(features[..., None, None], (order >= count).long(), 1000)
