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


CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_POOLS = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
SIZES = {1: (43,), 2: (16, 22), 3: (9, 12, 10)}  # of a signal, a picture, a volume
HEADS = ("pooled", "functional", "flattened", "convolution", "rectified")


class SidedNet(nn.Module):
    """SmallNet for signals, pictures or volumes, with a head of several kinds."""

    def __init__(self, sides: int, head: str = "pooled", n_classes: int = 3) -> None:
        super().__init__()
        conv, norms = CONVOLUTIONS[sides], (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
        self.stage1 = nn.Sequential(conv(1, 4, 3, 1, 1), nn.ReLU(inplace=True))
        self.stage2 = nn.Sequential(conv(4, 6, 3, 2, 1), norms[sides - 1](6), nn.ReLU())
        self.stage3 = nn.Sequential(conv(6, 8, 3, 2, 1), nn.ReLU(inplace=True))
        self.pool, self.kind = _POOLS[sides](1), head
        cells = torch.Size((size + 3) // 4 for size in SIZES[sides]).numel()
        is_convolved = head in ("convolution", "rectified")
        width = 8 * (cells if head == "flattened" else 1)
        self.head = conv(8, n_classes, 1) if is_convolved else nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(x)))
        if self.kind == "flattened":
            return self.head(x.flatten(1))
        if self.kind == "functional":
            return self.head(x.flatten(2).mean(2))
        if self.kind == "pooled":
            return self.head(self.pool(x).flatten(1))
        x = self.head(x)
        return self.pool(x.relu() if self.kind == "rectified" else x).flatten(1)


def make_sided(sides: int, head: str = "pooled", seed: int = 0) -> SidedNet:
    """Return a net of 1, 2 or 3 sides, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SidedNet(sides, head).eval()


def drawn_sided(sides: int, count: int = 12, seed: int = 0) -> Tensor:
    """Return inputs with a class's own stripes across the last side, and one bright third."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.rand(count, 1, *SIZES[sides], generator=generator)
    place, third = torch.arange(SIZES[sides][-1]), SIZES[sides][-1] // 3
    for i in range(count):
        x[i] += (place // 2 ** (i % 3)) % 2
        start = third * (i // 3 % 3)
        x[i, ..., start : start + third] += 0.5
    return x
