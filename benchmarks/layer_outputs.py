"""What a network's layers return, read by plain hooks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

__all__ = ["layer_outputs"]


@torch.no_grad()
def layer_outputs(model: nn.Module, layers: Sequence[str], inputs: Tensor) -> list[Tensor]:
    """Return copies of the outputs (N, D_l, h_l, w_l) of a network's layers, in their order.

    Args:
        model: The network; no hook stays on it.
        layers: Names of modules that return one tensor.
        inputs: Images (N, C, H, W).
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, __: object, output: Tensor) -> None:
        found[name] = output.clone()  # a module that works in place would overwrite it

    hooks = [model.get_submodule(n).register_forward_hook(partial(keep, n)) for n in layers]
    try:
        model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [found[name] for name in layers]
