"""Activations of a split, kept in memory, and distances of their rows to prototypes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.composite.weighting import block_weights
from captum_kmex.demo import SmallResNet

__all__ = ["DEPTHS", "N_ROWS", "Features", "distances", "hits"]

DEPTHS = {"B234": 0, "B34": 1, "B4": 2}
N_ROWS = 5000  # of each class, in the ablations; ``fit`` keeps up to 20,000
_BATCH = 50


@dataclass(frozen=True)
class Features:
    """What the blocks make of a split: one tensor a block, labels and predictions."""

    blocks: tuple[Tensor, ...]
    labels: Tensor
    predicted: Tensor

    @classmethod
    def of(cls, model: SmallResNet, data: TensorDataset, count: int) -> Features:
        """Run the network on the first images of a split."""
        images, labels = (x[:count] for x in data.tensors)
        found = [_blocks(model, part) for part in images.split(100)]
        b2, b3, b4, logits = (torch.cat(parts) for parts in zip(*found, strict=True))
        return cls((b2, b3, b4), labels, logits.argmax(1))

    def stack(self, depth: int, weighting: str, images: Tensor) -> StackedBlocks:
        """Return the composite of chosen images."""
        weights = block_weights(weighting, [block.shape[1] for block in self.blocks])
        blocks = tuple(block[images] for block in self.blocks[depth:])
        return StackedBlocks(blocks, weights[depth:])

    def sample(self, depth: int, weighting: str, count: int, seed: int) -> list[Tensor]:
        """Return a uniform sample of rows of each class."""
        generator = torch.Generator().manual_seed(seed)
        size = self.blocks[depth].shape[2:].numel()
        found = []
        for c in range(int(self.labels.max()) + 1):
            images = (self.labels == c).nonzero().squeeze(1)
            chosen = torch.randperm(len(images) * size, generator=generator)[:count]
            stack = self.stack(depth, weighting, images)
            found.append(stack.rows(chosen // size, chosen % size))
        return found

    @cached_property
    def batches(self) -> tuple[Tensor, ...]:
        """Indices of the images, a few at a time."""
        batches: tuple[Tensor, ...] = torch.arange(len(self.labels)).split(_BATCH)
        return batches


@torch.no_grad()
def _blocks(model: SmallResNet, images: Tensor) -> tuple[Tensor, ...]:
    b2 = model.layer2(model.layer1(model.stem(images)))
    b3 = model.layer3(b2)
    b4 = model.layer4(b3)
    return b2, b3, b4, model.fc(b4.mean((2, 3)))


def distances(
    features: Features, depth: int, weighting: str, prototypes: Tensor, count: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield squared distances (n, C, K, P) and norms of the deepest vectors (n, P).

    Args:
        features: A split.
        depth: Its shallowest block.
        weighting: Weights of the blocks.
        prototypes: Float tensor (C, K, D).
        count: Images; all if ``None``.
    """
    for images in features.batches:
        if count is not None and int(images[0]) >= count:
            return
        stack = features.stack(depth, weighting, images)
        squares = stack.squared_norms.unsqueeze(1)
        d = (squares - 2 * stack.scores(prototypes.flatten(0, 1))).clamp_min(0)
        d = d.flatten(2).unflatten(1, prototypes.shape[:2])
        yield d, 1 / stack.scales[-1].flatten(1)


def hits(found: Tensor, held: Features) -> dict[str, list[float | None]]:
    """Return whether predictions equal the labels, and the network's predictions."""
    return {
        "accuracy": (found == held.labels).double().tolist(),
        "fidelity": (found == held.predicted).double().tolist(),
    }
