"""What is remembered of a module's call: shapes and moments, never the maps themselves."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captum_kmex.model.layout import ChannelAxis, feature_grid

__all__ = ["Call", "CallLog", "MapMoments", "Record", "moments"]

_MAPS_KEPT = 3  # one map of the last grid each: the tap is hardly ever an earlier one


@dataclass(frozen=True)
class MapMoments:
    """Two weighted sums over the positions of a map, of the map itself and after ReLU.

    They tell maps apart, and hold the spatial mean, in a fraction of the map's memory.

    Attributes:
        plain: Float tensor (N, D, 2): the mean, and the mean weighted by a ramp.
        rectified: The same of ``max(0, h)``.
    """

    plain: Tensor
    rectified: Tensor

    @classmethod
    def of(cls, grid: Tensor) -> MapMoments:
        """Take the moments of a map (N, D, H, W)."""
        flat = grid.flatten(2)
        return cls(moments(flat), moments(flat.relu()))


def moments(flat: Tensor) -> Tensor:
    """Return mean and ramp-weighted mean (N, D, 2) over positions of a map (N, D, P)."""
    ramp = torch.linspace(0, 1, flat.shape[2], dtype=flat.dtype, device=flat.device)
    # no matrix product: TensorFloat-32 would round it
    return torch.stack([flat.mean(2), (flat * ramp).mean(2)], 2)


@dataclass(frozen=True)
class Record:
    """A tensor that a module got or returned.

    Attributes:
        shape: Its shape.
        grid: Shape (N, D, H, W) of the map that it is, if it is one.
        moments: Moments of that map, where they were asked for.
        values: The tensor itself if it is a table (N, F).
        token: The first token (N, D) if it is a row of tokens (N, T, D).
    """

    shape: tuple[int, ...]
    grid: tuple[int, int, int, int] | None = None
    moments: MapMoments | None = None
    values: Tensor | None = None
    token: Tensor | None = None

    @property
    def positions(self) -> int:
        """Cells of the map, 0 if it is none."""
        return 0 if self.grid is None else self.grid[2] * self.grid[3]

    @property
    def is_spatial(self) -> bool:
        """Whether it is a map (N, D, H, W) of more than one cell, no row of tokens."""
        return len(self.shape) == 4 and self.positions > 1

    @property
    def table(self) -> Tensor | None:
        """The features (N, F) that a linear layer sees, if it is a table or of one cell."""
        if self.positions == 1 and self.moments is not None:
            return self.moments.plain[..., 0]
        return self.values


@dataclass(frozen=True)
class Call:
    """One module's call, as the forward pass made it.

    Attributes:
        name: Module name in the unwrapped model.
        module: The module itself.
        entered: First tensor argument, or ``None``.
        left: First output tensor, or ``None``.
        is_pooled: The last map of one cell before its end came from pooling, or from a function
            between modules; not from a convolution, which shrinks maps but keeps them maps.
    """

    name: str
    module: nn.Module
    entered: Record | None
    left: Record | None
    is_pooled: bool = False


class CallLog:
    """The last module calls of a pass, and the last few of their maps.

    Args:
        size: Height and width of the input, in pixels.
        tail: Number of calls to remember.
        with_moments: Remember moments of maps, not shapes alone.

    Attributes:
        calls: The last calls in order of completion.
        recent: Pairs of module name and map (N, D, H, W), of the last calls whose maps differ.
    """

    def __init__(self, size: tuple[int, int], tail: int, with_moments: bool) -> None:
        self.calls: deque[Call] = deque(maxlen=tail)
        self.recent: deque[tuple[str, Tensor]] = deque(maxlen=_MAPS_KEPT)
        self._size, self._with_moments = size, with_moments
        self._shrinking = _Shrinking()
        self._last: MapMoments | None = None

    def add(
        self,
        name: str,
        module: nn.Module,
        tensors: tuple[Tensor | None, Tensor | None],
        axes: tuple[ChannelAxis, ChannelAxis],
    ) -> None:
        """Remember a call.

        Args:
            name: Module name.
            module: The module.
            tensors: What it got and what it returned.
            axes: The dimension of the channels in each.
        """
        before, after = (
            _record(tensor, self._size, axis, self._with_moments)
            for tensor, axis in zip(tensors, axes, strict=True)
        )
        if next(module.children(), None) is None:
            self._shrinking.take(module, before, after)
        self.calls.append(Call(name, module, before, after, self._shrinking.is_pooled))
        if tensors[1] is not None and after is not None and after.moments is not None:
            self._keep(name, tensors[1], after.moments, axes[1])

    def _keep(self, name: str, left: Tensor, found: MapMoments, axis: ChannelAxis) -> None:
        """Keep a copy of a map; of equal ones in a row, that of the last, outermost module."""
        grid = feature_grid(left.detach(), self._size, name, axis)
        if self.recent and self._last is not None and torch.equal(self._last.plain, found.plain):
            self.recent[-1] = (name, self.recent[-1][1])
            return
        wide = torch.promote_types(left.dtype, torch.float32)
        copy = grid.to(wide, copy=True, memory_format=torch.contiguous_format)
        self.recent.append((name, copy))
        self._last = found


def _record(
    tensor: Tensor | None, size: tuple[int, int], axis: ChannelAxis, with_moments: bool
) -> Record | None:
    """Remember a tensor of a pass.

    Args:
        tensor: What a module got or returned.
        size: Height and width of the input, in pixels.
        axis: Dimension of the channels if it is a map.
        with_moments: Keep moments and tables; otherwise shapes alone.
    """
    if tensor is None:
        return None
    tensor, shape = tensor.detach(), tuple(tensor.shape)
    try:
        grid = feature_grid(tensor, size, "", axis)
    except ValueError:
        grid = None
    height_width = None if grid is None else tuple(grid.shape)
    if not with_moments or not tensor.is_floating_point():
        return Record(shape, height_width)  # type: ignore[arg-type]  # four, as a grid has
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return Record(
        shape,
        height_width,  # type: ignore[arg-type]  # four, as a grid has
        None if grid is None else MapMoments.of(grid.to(wide)),
        tensor.to(wide, copy=True) if tensor.ndim == 2 else None,
        tensor[:, 0].to(wide, copy=True) if tensor.ndim == 3 else None,
    )


class _Shrinking:
    """How a map came to one cell: by a convolution, or by pooling."""

    def __init__(self) -> None:
        self.is_pooled = False
        self._was_spatial = True

    def take(self, module: nn.Module, entered: Record | None, left: Record | None) -> None:
        """Follow the call of a module without children."""
        if left is None or len(left.shape) != 4:
            return
        if left.positions != 1:
            self.is_pooled, self._was_spatial = False, True
            return
        shrinks = entered is not None and entered.is_spatial
        if isinstance(module, nn.Conv2d) and (shrinks or max(module.kernel_size) > 1):
            self.is_pooled = False  # a map for a kernel larger than a cell is still a map
        elif shrinks or self._was_spatial:
            self.is_pooled = True
        self._was_spatial = False
