"""A tiny task of random pictures, for the tests of methods."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.quality.task import Sample, Task

__all__ = ["tiny_task"]


def tiny_task(*, n_train: int | None = 48, relu: bool = True) -> Task:
    """Return a random network of three classes on 3x16x16 noise; its map is 6x8x8.

    Args:
        n_train: Training images, or ``None`` for none.
        relu: Whether the map before pooling is rectified.
    """
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        body = [nn.Conv2d(3, 5, 3, 2, 1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 6, 3, 1, 1)]
        tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)]
        model = nn.Sequential(*body, nn.ReLU() if relu else nn.Identity(), *tail).eval()

    def data(count: int) -> TensorDataset:
        labels = torch.arange(count) % 3
        images = torch.randn(count, 3, 16, 16, generator=generator)
        images[torch.arange(count), labels] += 1  # a class has its colour
        return TensorDataset(images, labels)

    images, labels = data(6).tensors
    test = Sample(images, model(images).argmax(1), labels)
    return Task(
        name="tiny",
        title="Tiny",
        model=model,
        layers=("2", "4"),
        class_names=("a", "b", "c"),
        train=None if n_train is None else data(n_train),
        test=data(12),
        sample=lambda _, count: test.first(count),
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        weight=0.03,
    )
