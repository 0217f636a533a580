"""Layouts: a layer's output, whatever it is, as a grid of vectors."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from captum_kmex.grids import FRONT_END

__all__ = [
    "CONVOLUTIONS",
    "LOST",
    "NORMS",
    "Convolution",
    "Layout",
    "LayoutClues",
    "feature_grid",
    "gives_clues",
    "has_plain_layout",
    "works_on_last",
]

# the dimension of the channels, or for tokens (N, T, D) the size of their grid
Layout = int | tuple[int, ...]
LOST: Layout = ()  # of tokens that stand in an order of the model's own

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


Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LocalResponseNorm, *_CHANNELS_LAST[1:])


def gives_clues(module: nn.Module) -> bool:
    """Whether a module's own output tells which of its dimensions are the channels."""
    return isinstance(module, _CHANNELS_FIRST) or works_on_last(module) or _may_reorder(module)


def _may_reorder(module: nn.Module) -> bool:
    """Whether a module has no parts and no weights, and is none of torch's."""
    is_own = not type(module).__module__.startswith("torch.")
    return is_own and not module._modules and not module._parameters


def _is_reordered(entered: Tensor | None, left: Tensor) -> bool:
    """Whether tokens (N, T, D) are those of before in another order."""
    if entered is None or entered.ndim != 3 or entered.shape != left.shape or not len(left):
        return False
    before, after = entered[0].double().sum(1), left[0].double().sum(1)
    return not torch.equal(before, after) and torch.equal(before.sort()[0], after.sort()[0])


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
    """Which dimension of a map (N, ?, ..., ?) holds the channels, from the modules that ran.

    Convolutions, batch norms and pooling have their channels in dimension 1, linear layers and
    layer norms in the last one. What a module returns that is none of these has the layout of
    the last one before it, unless its shape shows that dimensions were permuted in between.
    Letters of names and the shape of the input tell nothing. Tokens (N, T, D) stand on the last
    map's grid that they fit, such as that of a patch embedding; what they are more are class and
    register tokens before them. Of signals (N, C, T), tokens are maps with channels last.

    Args:
        ndim: Dimensions of a map: those of the model's input.
    """

    def __init__(self, ndim: int) -> None:
        self._ndim = ndim
        self._axis = 1  # as PyTorch's images have them
        self._width = 0
        self._shape: tuple[int, ...] = ()
        self._grids: deque[tuple[int, ...]] = deque(maxlen=_GRIDS_KEPT)
        self._image: tuple[int, ...] = ()
        self._is_lost = False  # tokens were put in another order

    def see(self, images: Tensor) -> None:
        """Learn what the model gets, which a patch embedding without convolutions cuts up."""
        self._image = tuple(images.shape[1:])

    def take(self, module: nn.Module, entered: Tensor | None, output: Tensor) -> None:
        """Learn from what a module of ``gives_clues`` got and returned."""
        if _may_reorder(module):
            if _is_reordered(entered, output):
                self._grids.clear()  # none of them says any more where a token stands
                self._is_lost = True
            return
        if isinstance(module, _CHANNELS_FIRST) and output.ndim == self._ndim:
            self._axis, self._width, self._shape = 1, output.shape[1], tuple(output.shape)
            self._keep(tuple(output.shape[2:]))
        width = _last_width(module)
        if width is None or output.ndim < 3 or self.is_of_heads(output):
            return
        if output.ndim == 3 and isinstance(module, nn.Linear):
            self._take_patches(output.shape[1], module.in_features)
        is_first = output.ndim == self._ndim and output.shape[1] == width
        is_last = output.shape[-1] == width
        if is_first and is_last and type(module) not in _CHANNELS_LAST:
            return  # its own forward may do either
        if is_first or is_last:
            self._axis, self._width = self._ndim - 1 if is_last else 1, width
            self._shape = tuple(output.shape)
            if output.ndim == self._ndim and not self._is_lost:  # else windows of tokens, perhaps
                self._keep(tuple(output.shape[1:-1]))

    def axis(self, output: Tensor) -> Layout:
        """Return the layout of what the last module returned."""
        if self._ndim == 3 == output.ndim:
            axis = self._axis_of_map(output)
            return axis if axis == 1 else self._without_prefix(output) or axis
        if output.ndim == 3:
            return self.token_grid(output) or (LOST if self._is_lost else self._axis)
        return self._axis_of_map(output)

    def token_grid(self, tokens: Tensor) -> tuple[int, ...] | None:
        """Return the grid on which tokens (N, T, D) stand, if a map has shown it."""
        for grid in reversed(self._grids):
            cells = math.prod(grid)
            prefix = tokens.shape[1] - cells
            is_transposed = self._axis == 1 and tokens.shape[2] == cells  # (N, D, T)
            if 0 <= prefix < min(cells, _MOST_TOLD_PREFIXES) and not is_transposed:
                return grid
        return None

    def is_of_heads(self, output: Tensor) -> bool:
        """Whether (N, heads, T, D) are tokens (N, T, ...) that attention has split: no map."""
        is_split = output.ndim == 4 and len(self._shape) == 3
        return is_split and self._shape[1] == output.shape[2]

    def _take_patches(self, tokens: int, width: int) -> None:
        """Keep the grid of a linear layer's tokens that are all pixels of the image, cut up."""
        if len(self._image) != 3 or self._is_lost:
            return
        channels, *size = self._image
        side = math.isqrt(width // channels)
        grid = (size[0] // side, size[1] // side) if side else (0, 0)
        if side * side * channels == width and grid[0] * grid[1] == tokens:
            self._keep(grid)

    def _axis_of_map(self, output: Tensor) -> int:
        if output.ndim != self._ndim or tuple(output.shape) == self._shape:
            return self._axis
        n, *others, last = output.shape
        if self._axis == 1:
            is_permuted = self._shape == (n, last, *others) and self._width == last
            return self._ndim - 1 if is_permuted else 1
        has_first, has_last = others[0] == self._width, last == self._width
        return 1 if has_first and not has_last else self._ndim - 1

    def _without_prefix(self, tokens: Tensor) -> tuple[int, ...] | None:
        """Return the grid of a signal's tokens (N, T, D) after class and register tokens."""
        grid = self.token_grid(tokens)
        return None if grid is None or grid[0] == tokens.shape[1] else grid

    def _keep(self, grid: tuple[int, ...]) -> None:
        is_new = not self._grids or self._grids[-1] != grid
        if is_new and math.prod(grid) > 1:
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
    features: Tensor, input_size: Sequence[int], name: str, channel_axis: Layout = 1
) -> Tensor:
    """Bring a layer's output to ``(N, D, *grid)``, whatever its layout.

    A 3-D output (N, T, D) for images or volumes holds tokens in row order; leading class or
    register tokens are dropped.

    Args:
        features: The layer's output.
        input_size: Size of the input ``(*size)``, in pixels.
        name: Layer name, for the message.
        channel_axis: Dimension of the channels in a map, or the grid of tokens.

    Raises:
        ValueError: The output has no grid.
    """
    if channel_axis == LOST:
        raise ValueError(
            f"layer {name!r} returns tokens that the model has put in another order, so nothing "
            "says where they stand; choose a layer before that, or one that returns a map"
        )
    grid = channel_axis if isinstance(channel_axis, tuple) else None
    if features.ndim == len(input_size) + 2 and (grid is None or features.ndim > 3):
        return features if grid is not None or channel_axis == 1 else features.movedim(-1, 1)
    if features.ndim == 3:
        if grid is None or math.prod(grid) > features.shape[1]:
            grid = _token_grid(features.shape[1], input_size)
        if grid is not None:
            tokens_last = features[:, -math.prod(grid) :].transpose(1, 2)
            return tokens_last.reshape(*tokens_last.shape[:2], *grid)
    if len(input_size) == 1 and features.ndim > 3:
        raise ValueError(
            f"layer {name!r} returned shape {tuple(features.shape)}, whose grid is none of the "
            f"inputs'; {FRONT_END}"
        )
    raise ValueError(
        f"layer {name!r} returned shape {tuple(features.shape)}, which has no grid; "
        f"choose a layer with output {_MAPS[len(input_size)]}, or tokens (N, T, D) on a grid"
    )


_MAPS = {1: "(N, D, T)", 2: "(N, D, H, W)", 3: "(N, D, d, h, w)"}


def _token_grid(tokens: int, input_size: Sequence[int]) -> tuple[int, ...] | None:
    """Return the size of a grid of the input's proportions, after the fewest prefixes."""
    first, *others = input_size
    targets = [math.log(first / size) for size in others]

    def misfit(grid: tuple[int, ...]) -> float:
        ratios = (math.log(grid[0] / size) for size in grid[1:])
        return max(
            (abs(ratio - target) for ratio, target in zip(ratios, targets, strict=True)),
            default=0.0,
        )

    for prefix in range(min(_MAX_PREFIX_TOKENS, tokens - 2) + 1):  # one token is no map
        best = min(_factors(tokens - prefix, len(input_size)), key=misfit)
        if misfit(best) < math.log(2) / max(best):
            return best
    return None


def _factors(count: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Yield the ways to write a number as a product of so many."""
    if parts == 1:
        yield (count,)
        return
    for first in range(1, count + 1):
        if count % first == 0:
            yield from ((first, *rest) for rest in _factors(count // first, parts - 1))
