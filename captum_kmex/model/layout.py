"""Layouts: a layer's output, whatever it is, as a grid of vectors."""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

from torch import Tensor, nn

__all__ = [
    "NORMS",
    "Layout",
    "LayoutClues",
    "feature_grid",
    "gives_clues",
    "has_plain_layout",
    "works_on_last",
]

# the dimension of the channels, or for tokens (N, T, D) height and width of their grid
Layout = Literal[1, 3] | tuple[int, int]

_MAX_PREFIX_TOKENS = 8  # class and register tokens before the patch tokens of a transformer
_MOST_TOLD_PREFIXES = 32  # the same where the grid is known
_GRIDS_KEPT = 8
_POOLS = (
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._LPPoolNd,
    nn.FractionalMaxPool2d,
)
_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,  # batch and instance norms
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.Upsample,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    *_POOLS,
)
_CHANNELS_LAST = tuple(
    kind
    for kind in (nn.Linear, nn.LayerNorm, getattr(nn, "RMSNorm", None))  # RMSNorm: torch 2.4
    if kind is not None
)


NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LocalResponseNorm, *_CHANNELS_LAST[1:])


def gives_clues(module: nn.Module) -> bool:
    """Whether a module's own output tells which of its dimensions are the channels."""
    return isinstance(module, _CHANNELS_FIRST) or works_on_last(module)


def works_on_last(module: nn.Module) -> bool:
    """Whether a module has its channels in the last dimension."""
    return _last_width(module) is not None


def has_plain_layout(module: nn.Module) -> bool:
    """Whether a module holds only layers with channels in dimension 1, and at least one."""
    parts = list(module.modules())
    return any(isinstance(part, _CHANNELS_FIRST) for part in parts) and not any(
        map(works_on_last, parts)
    )


class LayoutClues:
    """Which dimension of a map (N, ?, ?, ?) holds the channels, from the modules that ran.

    Convolutions, batch norms and pooling have their channels in dimension 1, linear layers and
    layer norms in the last one. What a module returns that is none of these has the layout of
    the last one before it, unless its shape shows that dimensions were permuted in between.
    Letters of names and the shape of the input tell nothing. Tokens (N, T, D) stand on the last
    map's grid that they fit, such as that of a patch embedding; what they are more are class and
    register tokens before them.
    """

    def __init__(self) -> None:
        self._axis: Literal[1, 3] = 1  # as PyTorch's images have them
        self._width = 0
        self._shape: tuple[int, ...] = ()
        self._grids: deque[tuple[int, int]] = deque(maxlen=_GRIDS_KEPT)
        self._image: tuple[int, ...] = ()

    def see(self, images: Tensor) -> None:
        """Learn what the model gets, which a patch embedding without convolutions cuts up."""
        self._image = tuple(images.shape[1:])

    def take(self, module: nn.Module, output: Tensor) -> None:
        """Learn from what a module of ``gives_clues`` returned."""
        if isinstance(module, _CHANNELS_FIRST) and output.ndim == 4:
            self._axis, self._width, self._shape = 1, output.shape[1], tuple(output.shape)
            self._keep((output.shape[2], output.shape[3]))
        width = _last_width(module)
        if width is None or output.ndim < 3 or self.is_of_heads(output):
            return
        if output.ndim == 3 and isinstance(module, nn.Linear):
            self._take_patches(output.shape[1], module.in_features)
        is_first = output.ndim == 4 and output.shape[1] == width
        is_last = output.shape[-1] == width
        if is_first and is_last and type(module) not in _CHANNELS_LAST:
            return  # its own forward may do either
        if is_first or is_last:
            self._axis, self._width = 3 if is_last else 1, width
            self._shape = tuple(output.shape)
            if output.ndim == 4:
                self._keep((output.shape[1], output.shape[2]))

    def axis(self, output: Tensor) -> Layout:
        """Return the layout of what the last module returned."""
        if output.ndim == 3:
            return self.token_grid(output) or self._axis
        if output.ndim != 4 or tuple(output.shape) == self._shape:
            return self._axis
        n, a, b, c = output.shape
        if self._axis == 1:
            is_permuted = self._shape == (n, c, a, b) and self._width == c
            return 3 if is_permuted else 1
        has_first, has_last = a == self._width, c == self._width
        return 1 if has_first and not has_last else 3

    def token_grid(self, tokens: Tensor) -> tuple[int, int] | None:
        """Return the grid on which tokens (N, T, D) stand, if a map has shown it."""
        for height, width in reversed(self._grids):
            cells = height * width
            prefix = tokens.shape[1] - cells
            is_transposed = self._axis == 1 and tokens.shape[2] == cells  # (N, D, T)
            if 0 <= prefix < min(cells, _MOST_TOLD_PREFIXES) and not is_transposed:
                return height, width
        return None

    def is_of_heads(self, output: Tensor) -> bool:
        """Whether (N, heads, T, D) are tokens (N, T, ...) that attention has split: no map."""
        is_split = output.ndim == 4 and len(self._shape) == 3
        return is_split and self._shape[1] == output.shape[2]

    def _take_patches(self, tokens: int, width: int) -> None:
        """Keep the grid of a linear layer's tokens that are all pixels of the image, cut up."""
        if len(self._image) != 3:
            return
        channels, *size = self._image
        side = math.isqrt(width // channels)
        grid = (size[0] // side, size[1] // side) if side else (0, 0)
        if side * side * channels == width and grid[0] * grid[1] == tokens:
            self._keep(grid)

    def _keep(self, grid: tuple[int, int]) -> None:
        is_new = not self._grids or self._grids[-1] != grid
        if is_new and grid[0] * grid[1] > 1:
            self._grids.append(grid)


def _last_width(module: nn.Module) -> int | None:
    """Return the channels of a layer that works on the last dimension, ``None`` for others."""
    if isinstance(module, nn.Linear):
        return module.out_features
    if not isinstance(module, _CHANNELS_LAST):
        return None
    shape: tuple[int, ...] = module.normalized_shape  # type: ignore[assignment]
    return shape[0] if len(shape) == 1 else None


def feature_grid(
    features: Tensor, input_size: tuple[int, int], name: str, channel_axis: Layout = 1
) -> Tensor:
    """Bring a layer's output to (N, D, H, W), whatever its layout.

    A 3-D output (N, T, D) holds tokens in row order; leading class or register tokens are
    dropped.

    Args:
        features: The layer's output.
        input_size: Height and width of the input, in pixels.
        name: Layer name, for the message.
        channel_axis: Dimension of the channels in a 4-D output, or the grid of tokens.

    Raises:
        ValueError: The output has no grid.
    """
    if features.ndim == 4:
        return features.permute(0, 3, 1, 2) if channel_axis == 3 else features
    if features.ndim == 3:
        grid = channel_axis if isinstance(channel_axis, tuple) else None
        if grid is None or grid[0] * grid[1] > features.shape[1]:
            grid = _token_grid(features.shape[1], input_size)
        if grid is not None:
            height, width = grid
            tokens_last = features[:, -height * width :].transpose(1, 2)
            return tokens_last.reshape(*tokens_last.shape[:2], height, width)
    raise ValueError(
        f"layer {name!r} returned shape {tuple(features.shape)}, which has no grid; "
        "choose a layer with output (N, D, H, W), or tokens (N, T, D) on a grid"
    )


def _token_grid(tokens: int, input_size: tuple[int, int]) -> tuple[int, int] | None:
    """Return height and width of a grid of the input's proportions, after the fewest prefixes."""
    target = math.log(input_size[0] / input_size[1])

    def misfit(height: int, width: int) -> float:
        return abs(math.log(height / width) - target)

    for prefix in range(min(_MAX_PREFIX_TOKENS, tokens - 2) + 1):  # one token is no map
        patches = tokens - prefix
        grids = [(h, patches // h) for h in range(1, patches + 1) if patches % h == 0]
        height, width = min(grids, key=lambda grid: misfit(*grid))
        if misfit(height, width) < math.log(2) / max(height, width):
            return height, width
    return None
