"""What rivals share: their own copy of the model, and gradients to check them by."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from benchmarks.speed.setting import Setting

__all__ = ["Rival", "to_unit"]


class Rival:
    """A rival on its own copy of the model, as several leave hooks on it."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.model = copy.deepcopy(setting.model)

    def gradients(self, names: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
        """Return activation and gradient of the logits at each layer, by plain autograd."""
        kept: dict[str, Tensor] = {}

        def keep(name: str) -> RemovableHandle:
            def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
                kept[name] = output

            return self.setting.model.get_submodule(name).register_forward_hook(hook)

        handles = [keep(name) for name in names]
        logits = self.setting.model(self.setting.images)
        for handle in handles:
            handle.remove()
        total = logits.gather(1, self.setting.target[:, None]).sum()
        gradients = torch.autograd.grad(total, [kept[name] for name in names])
        pairs = zip((kept[name] for name in names), gradients, strict=True)
        return [(activation.detach(), gradient) for activation, gradient in pairs]


def to_unit(maps: Tensor) -> Tensor:
    """Bring each map to [0, 1]."""
    shifted = maps - maps.amin((-2, -1), keepdim=True)
    return shifted / (shifted.amax((-2, -1), keepdim=True) + 1e-8)
