"""What is remembered of a module's call: shapes and moments, never the maps themselves."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from captum_kmex.model.layout import CONVOLUTIONS, Layout, feature_grid

__all__ = ["Call", "CallLog", "MapMoments", "Record", "is_linear", "moments"]

_MAPS_KEPT = 3  # the tap is hardly ever an earlier one
_SMALL = 16  # a map this many times smaller than the largest is copied, others are only held
_WHOLE = 65_536  # values of a map that is not worth cutting
_PARTS = (4, 8)  # into how many a map is cut to take its moments, by images and by channels


def is_linear(module: nn.Module) -> bool:
    """Whether a module may be a head: a linear layer or a 1x1 convolution."""
    return isinstance(module, nn.Linear) or (
        isinstance(module, CONVOLUTIONS) and set(module.kernel_size) == {1}
    )


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
        """Take the moments of a map ``(N, D, *grid)``, a part of it at a time."""
        parts = _PARTS if grid.numel() > _WHOLE else (1, 1)
        images, channels = (
            max(1, -(-size // count)) for size, count in zip(grid.shape[:2], parts, strict=True)
        )
        found = [
            [_both_moments(part.flatten(2)) for part in some.split(channels, 1)]
            for some in grid.split(images)
        ]
        joined = torch.cat([torch.cat(row, 1) for row in found])
        return cls(joined[..., :2], joined[..., 2:])


def _both_moments(flat: Tensor) -> Tensor:
    """Return the moments (N, D, 4) of a map (N, D, P) and of it after ReLU."""
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
    return torch.cat([moments(flat), moments(flat.relu())], 2)


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
        grid: Shape ``(N, D, *grid)`` of the map that it is, if it is one.
        moments: Moments of that map, where they were asked for.
        values: The tensor itself if it is a table (N, F).
        token: The first token (N, D) if it is a row of tokens (N, T, D).
    """

    shape: tuple[int, ...]
    grid: tuple[int, ...] | None = None
    moments: MapMoments | None = None
    values: Tensor | None = None
    token: Tensor | None = None

    @property
    def positions(self) -> int:
        """Cells of the map, 0 if it is none."""
        return 0 if self.grid is None else math.prod(self.grid[2:])

    @property
    def is_map(self) -> bool:
        """Whether it is a map of as many dimensions as the input, no row of tokens."""
        return self.grid is not None and len(self.shape) == len(self.grid)

    @property
    def is_spatial(self) -> bool:
        """Whether it is such a map of more than one cell."""
        return self.is_map and self.positions > 1

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

    It hardly needs memory beside the pass: of a large map it keeps no copy but the tensor, and
    only until another one follows, as the pass itself does.

    Args:
        size: Size of the input, in pixels.
        tail: Number of calls to remember.
        with_moments: Remember moments of maps, not shapes alone.

    Attributes:
        calls: The last calls in order of completion.
    """

    def __init__(self, size: tuple[int, ...], tail: int, with_moments: bool) -> None:
        self.calls: deque[Call] = deque(maxlen=tail)
        self._size, self._with_moments = size, with_moments
        self._shrinking = _Shrinking()
        self._kept: deque[_KeptMap] = deque(maxlen=_MAPS_KEPT)
        self._largest = 0

    def add(
        self,
        name: str,
        module: nn.Module,
        tensors: tuple[Tensor | None, Tensor | None],
        axes: tuple[Layout, Layout],
    ) -> None:
        """Remember a call.

        Args:
            name: Module name.
            module: The module.
            tensors: What it got and what it returned.
            axes: The dimension of the channels in each.
        """
        after = _record(tensors[1], self._size, axes[1], self._with_moments)
        is_told = is_linear(module) or (after is not None and after.positions == 1)
        before = _record(tensors[0], self._size, axes[0], self._with_moments and is_told)
        if next(module.children(), None) is None:
            self._shrinking.take(module, before, after)
        self.calls.append(Call(name, module, before, after, self._shrinking.is_pooled))
        if tensors[1] is not None and after is not None and after.moments is not None:
            grid = feature_grid(tensors[1].detach(), self._size, name, axes[1])
            self._keep(_KeptMap(name, grid, after.moments))

    def maps(self) -> dict[str, Tensor]:
        """Return copies of the last maps ``(N, D, *grid)`` that nothing has written to."""
        return {kept.name: kept.copied().grid for kept in self._kept if kept.is_untouched()}

    def _keep(self, new: _KeptMap) -> None:
        """Keep a map; of equal ones in a row, under the name of the last, outermost module."""
        self._largest = max(self._largest, _bytes(new.grid))
        last = self._kept[-1] if self._kept else None
        if last is not None and last.has(new.moments):
            self._kept[-1] = replace(last, name=new.name)
        elif _bytes(new.grid) * _SMALL <= self._largest:
            self._kept.append(new.copied())
        else:
            self._kept.clear()
            self._kept.append(new)


@dataclass(frozen=True)
class _KeptMap:
    """A map, or a copy of it, with the moments that it had."""

    name: str
    grid: Tensor
    moments: MapMoments
    is_copy: bool = False

    def copied(self) -> _KeptMap:
        """Return it with a copy of its own, in at least single precision."""
        if self.is_copy:
            return self
        wide = torch.promote_types(self.grid.dtype, torch.float32)
        copy = self.grid.to(wide, copy=True, memory_format=torch.contiguous_format)
        return replace(self, grid=copy, is_copy=True)

    def has(self, found: MapMoments) -> bool:
        return torch.equal(self.moments.plain, found.plain)

    def is_untouched(self) -> bool:
        """Whether no module wrote to the map after it was returned."""
        return self.is_copy or self.has(MapMoments.of(self.grid))


def _bytes(tensor: Tensor) -> int:
    # not `nbytes`, which a compiled part of a model cannot trace
    return tensor.numel() * tensor.element_size()


def _record(
    tensor: Tensor | None, size: tuple[int, ...], axis: Layout, with_moments: bool
) -> Record | None:
    """Remember a tensor of a pass.

    Args:
        tensor: What a module got or returned.
        size: Size of the input, in pixels.
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
    on_grid = None if grid is None else tuple(grid.shape)
    if not with_moments or not tensor.is_floating_point():
        return Record(shape, on_grid)
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return Record(
        shape,
        on_grid,
        None if grid is None else MapMoments.of(grid),
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
        if left is None or not left.is_map:
            return
        if left.positions != 1:
            self.is_pooled, self._was_spatial = False, True
            return
        shrinks = entered is not None and entered.is_spatial
        if isinstance(module, CONVOLUTIONS) and (shrinks or max(module.kernel_size) > 1):
            self.is_pooled = False  # a map for a kernel larger than a cell is still a map
        elif shrinks or self._was_spatial:
            self.is_pooled = True
        self._was_spatial = False
