"""Small nets whose features and heads can be checked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


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


LAYERS = ["stage1", "stage2", "stage3"]


def make_net(n_classes: int = 3, channels: int = 1, seed: int = 0) -> SmallNet:
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    net = SmallNet(n_classes, channels).eval()
    torch.set_rng_state(generator_state)
    return net


@pytest.fixture
def net() -> SmallNet:
    return make_net()


@pytest.fixture
def images() -> Tensor:
    """Twelve images in which a class is a bright quadrant, so that features differ by class."""
    generator = torch.Generator().manual_seed(1)
    x = 0.2 * torch.rand(12, 1, 16, 16, generator=generator)
    for i in range(12):
        row, column = divmod(i % 3, 2)
        x[i, 0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 1
    return x


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(12) % 3
