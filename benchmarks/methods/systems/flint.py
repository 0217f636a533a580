"""The interpreter of FLINT (Parekh et al., 2021) of a frozen network, and its losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.methods.systems.training import step

__all__ = ["Budget", "Interpreter", "Terms", "loss_terms", "train"]

_FIDELITY, _RECONSTRUCTION, _SPARSITY, _ENTROPY = 0.5, 0.8, 0.5, 0.2


@dataclass(frozen=True)
class Budget:
    """How many attributes there are, and how long they are trained.

    Attributes:
        attributes: Attributes A.
        grid: Cells a side to which the intermediate maps are pooled.
        epochs: Passes over the images; the sparsity begins with the fourth.
        batch_size: Images in a step.
    """

    attributes: int = 24
    grid: int = 4
    epochs: int = 20
    batch_size: int = 64


class Terms(NamedTuple):
    """The terms of the loss before they are weighted, scalars."""

    fidelity: Tensor
    reconstruction: Tensor
    sparsity: Tensor
    entropy: Tensor


class Interpreter(nn.Module):
    """A few attributes of the network's intermediate maps, and a linear layer that predicts.

    Args:
        width: Channels of the stacked maps.
        shape: Channels, height and width of the images, to decode.
        n_classes: Number of classes J.
        budget: For the attributes and the grid.
    """

    def __init__(
        self, width: int, shape: tuple[int, int, int], n_classes: int, budget: Budget
    ) -> None:
        super().__init__()
        inner, count = 64, budget.attributes
        self.attributes = nn.Sequential(
            nn.Conv2d(width, inner, 3, 1, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(inner * budget.grid**2, count),
            nn.ReLU(),
        )
        self.head = nn.Linear(count, n_classes, bias=False)
        cells = (-(-shape[1] // 4), -(-shape[2] // 4))
        self.decoder = nn.Sequential(
            nn.Linear(count, inner * cells[0] * cells[1]),
            nn.Unflatten(1, (inner, *cells)),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(inner, inner // 2, 3, 1, 1),
            nn.ReLU(),
            nn.Upsample(shape[1:]),
            nn.Conv2d(inner // 2, shape[0], 3, 1, 1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Return the interpreter's logits (N, J) of stacked maps (N, width, grid, grid)."""
        logits: Tensor = self.head(self.attributes(maps))
        return logits


def stacked(blocks: list[Tensor], grid: int) -> Tensor:
    """Return intermediate maps pooled to one grid (N, width, grid, grid), one after the other."""
    return torch.cat([_resized(block, grid) for block in blocks], 1)


def _resized(block: Tensor, grid: int) -> Tensor:
    if min(block.shape[2:]) < grid:
        return interpolate(block, (grid, grid), mode="bilinear", align_corners=False)
    return adaptive_avg_pool2d(block, grid)


def loss_terms(net: Interpreter, maps: Tensor, images: Tensor, logits: Tensor) -> Terms:
    """Return the terms of the loss of a batch (Parekh et al., 2021, section 3).

    Args:
        net: The interpreter.
        maps: Stacked maps (N, width, grid, grid).
        images: What is decoded (N, C, H, W).
        logits: The network's own (N, J).
    """
    found = net.attributes(maps)
    wanted, given = logits.softmax(1), net.head(found).log_softmax(1)
    shares = found / found.sum(1, keepdim=True).clamp_min(1e-6)
    # each image has few attributes, all images together have them evenly
    entropy = _entropy(shares).mean() - _entropy(shares.mean(0))
    return Terms(
        -(wanted * given).sum(1).mean(),
        mse_loss(net.decoder(found), images),
        found.abs().mean(),
        entropy,
    )


def train(net: Interpreter, maps: Tensor, images: Tensor, logits: Tensor, budget: Budget) -> None:
    """Train an interpreter in place by Adam; draws from the global generator.

    The terms come in one by one, as in the paper: fidelity and reconstruction at once, entropy
    from the third epoch, sparsity from the fourth.
    """
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    data = TensorDataset(maps, images, logits)
    loader = DataLoader(data, budget.batch_size, shuffle=True)
    net.train()
    for epoch in range(1, budget.epochs + 1):
        for batch in loader:
            terms = loss_terms(net, *batch)
            loss = _FIDELITY * terms.fidelity + _RECONSTRUCTION * terms.reconstruction
            loss = loss + _ENTROPY * terms.entropy * (epoch > 2)
            loss = loss + _SPARSITY * terms.sparsity * (epoch > 3)
            step(optimizer, loss)
    net.eval()


def _entropy(shares: Tensor) -> Tensor:
    """Return the entropy of shares (..., A)."""
    return -(shares * shares.clamp_min(1e-12).log()).sum(-1)
