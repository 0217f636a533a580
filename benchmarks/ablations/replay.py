"""A network that has been run once and is explained many times."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

__all__ = ["Replay", "record"]


class Replay(nn.Module):
    """A network that has been run: its blocks return what they returned, its head runs again.

    Args:
        blocks: Activations (N, D_l, h_l, w_l), shallow to deep; the last is the tap.
        head: The linear layer on the pooled tap.
    """

    def __init__(self, blocks: Sequence[Tensor], head: nn.Linear) -> None:
        super().__init__()
        self.recorded = tuple(blocks)
        self.blocks = nn.ModuleList(nn.Identity() for _ in blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = head
        self.eval()

    @property
    def images(self) -> Tensor:
        """What stands for the images: their places (N, 1, 1, 1)."""
        return torch.arange(len(self.recorded[0])).view(-1, 1, 1, 1).float()

    @property
    def layers(self) -> list[str]:
        """Names of the blocks, shallow to deep."""
        return [f"blocks.{i}" for i in range(len(self.blocks))]

    def forward(self, places: Tensor) -> Tensor:
        """Return the logits (N, J) of the images at these places."""
        chosen = places.flatten(1)[:, 0].long()
        tap = places
        for block, recorded in zip(self.blocks, self.recorded, strict=True):
            tap = block(recorded[chosen])
        logits: Tensor = self.head(self.pool(tap).flatten(1))
        return logits


@torch.no_grad()
def record(model: nn.Module, layers: Sequence[str], inputs: Tensor) -> Replay:
    """Run a network with a pooled linear head once and return its ``Replay``."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keep(name: str, _: nn.Module, __: object, output: Tensor) -> None:
        found[name].append(output.clone())

    hooks = [model.get_submodule(n).register_forward_hook(partial(keep, n)) for n in layers]
    try:
        for batch in inputs.split(8):
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    return Replay([torch.cat(parts) for parts in found.values()], head)
