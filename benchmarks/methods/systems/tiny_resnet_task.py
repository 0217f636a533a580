"""A task of a random network and random pictures, for the tests of methods."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import interpolate
from torch.utils.data import TensorDataset

from benchmarks.quality.task import Sample, Task
from captum_kmex.demo import SmallResNet

__all__ = ["tiny_resnet_task"]

_LAYERS = ("layer2", "layer3", "layer4")


def tiny_resnet_task(
    channels: int = 1, model: nn.Module | None = None, layers: tuple[str, ...] = _LAYERS
) -> Task:
    """Return a task of 16 x 16 pictures of three classes.

    Args:
        channels: Channels of the pictures.
        model: Classifier of three classes; a narrow ``SmallResNet`` if ``None``.
        layers: Its layers, shallow to deep.
    """
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(30, channels, 4, 4, generator=generator)
    images = (interpolate(coarse, (16, 16), mode="bilinear") - 0.5) / 0.3
    labels = torch.arange(30) % 3
    if model is None:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            model = SmallResNet(3, channels, width=4).train()
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):  # no two alike, as in a trained network
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.uniform_(-0.5, 0.5)
            model(images)
    model.eval()

    def sample(_split: str, count: int) -> Sample:
        return Sample(images[:count], labels[:count], labels[:count])

    data = TensorDataset(images, labels)
    mean, std = (0.5,) * channels, (0.3,) * channels
    names = ("one", "two", "three")
    return Task("tiny", "Tiny", model, layers, names, data, data, sample, mean, std)
