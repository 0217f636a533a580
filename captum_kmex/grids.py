"""Layouts: a layer's output, whatever it is, as a grid of vectors."""

from __future__ import annotations

import math

from torch import Tensor, nn

__all__ = ["feature_grid"]

_MAX_PREFIX_TOKENS = 8  # class and register tokens before the patch tokens of a transformer


def feature_grid(
    features: Tensor, input_size: tuple[int, int], name: str, module: nn.Module
) -> Tensor:
    """Bring a layer's output to (N, D, H, W), whatever its layout.

    A 4-D output is channels-first, or channels-last (Swin) where that fits the input's
    shape better; a convolution is always channels-first. A 3-D output (N, T, D) holds tokens
    in row order; leading class or register tokens are dropped.

    Args:
        features: The layer's output.
        input_size: Height and width of the input, in pixels.
        name: Layer name, for the message.
        module: The layer.

    Raises:
        ValueError: The output has no grid.
    """
    target = math.log(input_size[0] / input_size[1])

    def misfit(height: int, width: int) -> float:
        return abs(math.log(height / width) - target)

    if features.ndim == 4:
        _, a, b, c = features.shape
        # equality keeps channels-first: (N, D, H, W) is the convention of PyTorch
        rounding = 2 / b + 2 / c  # a cell or two more or less along each side
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)) or misfit(b, c) <= rounding:
            return features
        return features.permute(0, 3, 1, 2) if misfit(a, b) < misfit(b, c) else features
    if features.ndim == 3:
        tokens = features.shape[1]
        for prefix in range(min(_MAX_PREFIX_TOKENS, tokens - 1) + 1):
            grids = [(h, (tokens - prefix) // h) for h in _divisors(tokens - prefix)]
            height, width = min(grids, key=lambda grid: misfit(*grid))
            if misfit(height, width) < math.log(2) / max(height, width):
                tokens_last = features[:, prefix:].transpose(1, 2)
                return tokens_last.reshape(*tokens_last.shape[:2], height, width)
    raise ValueError(
        f"layer {name!r} returned shape {tuple(features.shape)}, which has no grid; "
        "choose a layer with output (N, D, H, W), or tokens (N, T, D) on a grid"
    )


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
