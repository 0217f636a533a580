"""What stands where a part was removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

__all__ = ["FILLS", "blurred"]

_BLUR = 0.1  # standard deviation, in sides of the map


def blurred(features: Tensor) -> Tensor:
    """Return features ``(1, D, *grid)`` under a Gaussian a tenth of each side wide.

    At the borders the weights inside count for all.
    """
    for axis in range(2, features.ndim):
        size = features.shape[axis]
        place = torch.arange(size, device=features.device, dtype=features.dtype)
        weights = torch.exp(-0.5 * ((place[:, None] - place) / (_BLUR * size)).square())
        weights = weights / weights.sum(1, keepdim=True)
        features = (features.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return features


def _mean(features: Tensor) -> Tensor:
    return features.mean(tuple(range(2, features.ndim)), keepdim=True).expand_as(features)


FILLS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"mean": _mean, "blur": blurred, "zero": torch.zeros_like}
)
