"""What most tests begin with: a small net, images and their classes."""

from __future__ import annotations

import sys

import pytest
import torch
from nets import SmallNet, make_net
from torch import Tensor


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_figures_left():
    """Tests that count open figures may run after any other."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def net() -> SmallNet:
    return make_net()


@pytest.fixture
def images(drawn_images) -> Tensor:
    return drawn_images.clone()


@pytest.fixture(scope="session")
def drawn_images() -> Tensor:
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
