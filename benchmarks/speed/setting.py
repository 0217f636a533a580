"""The network, images and prototypes that the benchmarks of explanations share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
import torchvision
from torch import Tensor, nn

from benchmarks.layer_outputs import layer_outputs
from captum_kmex import LayerKMeansAttribution
from captum_kmex.bank.prototype_bank import Codebook, ModelFingerprint, PrototypeBank
from captum_kmex.composite.stack import StackedBlocks

__all__ = ["LAYERS", "Setting", "at_defaults", "deepest_map", "fitted", "make_setting", "unfitted"]

LAYERS = ("layer2", "layer3", "layer4")
_OPTIONS: dict[str, Any] = {"n_clusters": 5, "weighting": "balanced"}
_CLASSES = 10  # of a random bank; the number of prototypes is what costs


@dataclass(frozen=True)
class Setting:
    """A ResNet with random weights and images of noise: costs do not depend on either.

    Attributes:
        model: In evaluation mode, its parameters as they come.
        images: Float tensor (N, 3, H, W).
        layers: Names of the stacked layers, shallow to deep.
    """

    model: nn.Module
    images: Tensor
    layers: tuple[str, ...] = LAYERS

    def forward(self) -> Tensor:
        """Return the logits: the bare forward pass to which all else is compared."""
        with torch.inference_mode():
            logits: Tensor = self.model(self.images)
        return logits

    @cached_property
    def logits(self) -> Tensor:
        """Logits (N, J)."""
        return self.forward().clone()

    @cached_property
    def target(self) -> Tensor:
        """Explained class (N,), the model's own."""
        return self.logits.argmax(1).clone()

    @property
    def head(self) -> nn.Linear:
        """The network's linear head."""
        head = self.model.get_submodule("fc")
        if not isinstance(head, nn.Linear):
            raise TypeError(f"the head is no linear layer but {type(head).__name__}")
        return head

    @property
    def column(self) -> Tensor:
        """The head's column of each image's class (N, D)."""
        return self.head.weight[self.target].detach()

    @property
    def bias(self) -> Tensor:
        """The head's bias of each image's class (N,)."""
        return self.head.bias[self.target].detach()

    @cached_property
    def output(self) -> Tensor:
        """The explained logit (N,)."""
        return self.logits.gather(1, self.target[:, None]).squeeze(1)


def make_setting(
    is_full: bool, batch: int, size: int | None = None, layers: Sequence[str] = LAYERS
) -> Setting:
    """Return ResNet34 at 224 x 224 for a full run, ResNet18 at 64 x 64 for a short one."""
    side = size or (224 if is_full else 64)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, side, side, generator=generator)
    return Setting(_network("resnet34" if is_full else "resnet18"), images, tuple(layers))


@lru_cache(maxsize=2)
def _network(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = torchvision.models.get_model(name, weights=None).eval()
    return model


def unfitted(setting: Setting, n_clusters: int = 5) -> LayerKMeansAttribution:
    """Return the attribution that clusters each image by itself, as NAVE in five clusters."""
    options = _OPTIONS | {"n_clusters": n_clusters}
    return LayerKMeansAttribution(setting.model, list(setting.layers), **options)


def at_defaults(setting: Setting) -> LayerKMeansAttribution:
    """Return the attribution as it comes: unfitted, twenty clusters an image."""
    return LayerKMeansAttribution(setting.model, list(setting.layers))


def deepest_map(setting: Setting) -> Tensor:
    """Return our map on the deepest layer alone (N, 1, h, w): the head's, without segments."""
    maps = unfitted(setting).attribute(setting.images, setting.target, depth=-1)
    return cast("Tensor", maps)


def fitted(
    setting: Setting, n_prototypes: int, n_classes: int = _CLASSES
) -> LayerKMeansAttribution:
    """Return the attribution with a bank of K noisy rows of the images, at every depth.

    The prototypes are shared out evenly among the first ``n_classes`` classes.
    """
    blocks = tuple(layer_outputs(setting.model, setting.layers, setting.images))
    generator = torch.Generator().manual_seed(2)
    stacks = [StackedBlocks(blocks[i:], (1.0,) * (len(blocks) - i)) for i in range(len(blocks))]
    classes = torch.arange(n_prototypes) * n_classes // n_prototypes
    bank = PrototypeBank(
        method="LayerKMeansAttribution",
        layers=setting.layers,
        at_input=False,
        weights=(1.0,) * len(blocks),
        codebooks=tuple(_codebook(stack, classes, generator) for stack in stacks),
        n_classes=setting.logits.shape[1],
        input_range=(-9.0, 9.0),
        fingerprint=ModelFingerprint("0" * 64, "0" * 64),
        provenance={},
        settings=_OPTIONS,
    )
    with TemporaryDirectory() as folder:  # a bank comes to an attribution by a file
        path = Path(folder) / "bank.safetensors"
        bank.save(path)
        return LayerKMeansAttribution.load(path, setting.model, strict=False)


def _codebook(stack: StackedBlocks, classes: Tensor, generator: torch.Generator) -> Codebook:
    count = len(classes)
    images = torch.randint(len(stack.blocks[0]), (count,), generator=generator)
    pixels = torch.randint(stack.grid[0] * stack.grid[1], (count,), generator=generator)
    noise = torch.randn(count, stack.width, generator=generator) / stack.width**0.5
    ones = torch.ones(count)
    return Codebook(stack.rows(images, pixels) + 0.05 * noise, classes.clone(), ones.long(), ones)
