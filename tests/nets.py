"""Small nets that several test modules use."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LAYERS = ["stage1", "stage2", "stage3"]  # of SmallNet


class SmallNet(nn.Module):
    """Three stages on grids 1, 1/2 and 1/4 of the input, pooled, linear."""

    def __init__(self, n_classes: int = 3, channels: int = 1) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(channels, 4, 3, 1, 1), nn.ReLU(inplace=True))
        self.stage2 = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(inplace=True))
        self.stage3 = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.head(self.drop(torch.flatten(self.pool(x), 1)))


def make_net(n_classes: int = 3, channels: int = 1, seed: int = 0) -> SmallNet:
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    net = SmallNet(n_classes, channels).eval()
    torch.set_rng_state(generator_state)
    return net


class Gem(nn.Module):
    """A generalised mean over the grid, which is no plain pooling."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp_min(1e-6).pow(3).mean((2, 3), keepdim=True).pow(1 / 3)


def calibrate(model: nn.Module, images: Tensor, generator: torch.Generator) -> None:
    """Give batch norms the statistics of the images, disturbed, and random affine parameters.

    Fresh running statistics let most random nets fade out: their last map would be the same
    at every position of every image, and any average of it would pass for the pooled one.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.5, generator=generator)
        norm.bias.data.normal_(0, 0.1, generator=generator)
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model(images)
    for norm in norms:
        norm.eval()
        noise = torch.randn(norm.num_features, generator=generator)
        norm.running_mean += 0.1 * noise * norm.running_var.sqrt()
        norm.running_var *= 0.5 + torch.rand(norm.num_features, generator=generator)
