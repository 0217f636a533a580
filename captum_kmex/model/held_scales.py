"""Normalisations with the scale that they have at an image, so that a gradient takes it as given.

A layer norm returns the same for twice its input. So its gradient times its input is always zero in
sum, and a map made of it would say nothing of the logit. With the scale held, it is affine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["HeldScales"]


class HeldScales(TorchFunctionMode):
    """Within it, the gradient of normalisations leaves out that of their scale; values stay.

    These are torch's ``layer_norm``, ``rms_norm``, ``group_norm`` and ``normalize``.

    Reference:
        Ali et al., "XAI for Transformers: Better Explanations through Conservative Propagation"
        (2022), section 4, LN-rule.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch, or its counterpart with the scale held."""
        kwargs = kwargs or {}
        value, held = func(*args, **kwargs), _HELD.get(func)
        if held is None or not torch.is_grad_enabled():
            return value
        linear = held(*args, **kwargs)
        return linear + (value - linear).detach()


def _standardised(x: Tensor, dims: Sequence[int], eps: float, centres: bool = True) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    wide = wide - wide.mean(list(dims), keepdim=True) if centres else wide
    scale = wide.detach().square().mean(list(dims), keepdim=True).add(eps).rsqrt()
    return wide * scale


def _layer_norm(
    input: Tensor,  # noqa: A002  # torch's own names
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    dims = range(-len(normalized_shape), 0)
    return _scaled(_standardised(input, dims, eps), weight, bias).to(input.dtype)


def _rms_norm(
    input: Tensor,  # noqa: A002
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    dims = range(-len(normalized_shape), 0)
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    return _scaled(_standardised(input, dims, eps, centres=False), weight, None).to(input.dtype)


def _group_norm(
    input: Tensor,  # noqa: A002
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    grouped = input.reshape(len(input), num_groups, -1)
    found = _standardised(grouped, [2], eps).reshape(input.shape)
    shape = (-1,) + (1,) * (input.ndim - 2)
    weight, bias = (part if part is None else part.view(shape) for part in (weight, bias))
    return _scaled(found, weight, bias).to(input.dtype)


def _normalize(
    input: Tensor,  # noqa: A002
    p: float = 2.0,
    dim: int = 1,
    eps: float = 1e-12,
    out: Tensor | None = None,  # noqa: ARG001
) -> Tensor:
    length: Tensor = input.detach().norm(p, dim, keepdim=True).clamp_min(eps)
    return input / length


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


_HELD: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    torch.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.normalize: _normalize,
}
