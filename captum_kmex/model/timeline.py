"""The maps of a forward pass in the order in which they are made, and where each can be tapped."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from captum_kmex.grids import grid_of
from captum_kmex.model.hooks import first_tensor
from captum_kmex.model.layout import LOST, Layout, LayoutClues, feature_grid, gives_clues
from captum_kmex.model.tail import Tap

__all__ = ["Place", "Timeline"]

_ADAPTIVE = (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)


@dataclass(frozen=True)
class Place:
    """A map of a pass.

    Attributes:
        tap: Where it is read.
        layout: How its values stand in the module's tensor.
        shape: Channels, and the size of the grid.
        size: Size of the model's input.
    """

    tap: Tap
    layout: Layout
    shape: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def cells(self) -> int:
        """Number of positions."""
        return math.prod(self.shape[1:])

    def grid(self, value: Tensor) -> Tensor:
        """Return the module's tensor, or a gradient of it, as a map ``(N, D, *grid)``."""
        return feature_grid(value, self.size, self.tap.name, self.layout)


class Timeline:
    """Collects the places of a pass while its hooks are attached.

    A tensor that several modules pass on is one place: named by the outermost of the modules that
    return it in a row, else by the first that gets it, where a function made it.

    Args:
        inputs: What the model gets; the first one is the batch of images ``(N, C, *size)``.
    """

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        images = inputs[0]
        self._count, self._size, self._ndim = len(images), grid_of(images), images.ndim
        self._clues = LayoutClues(images.ndim)
        self._clues.see(images)
        self._given = {tensor.data_ptr() for tensor in inputs}
        self._found: list[tuple[Tap, Place | None]] = []
        self._last: tuple[Tensor, int] | None = None  # held, so that its memory is not used again
        self._runs: Counter[str] = Counter()
        self._thread = threading.get_ident()

    @property
    def places(self) -> tuple[Place, ...]:
        """The maps of more than one cell, of modules that ran once, in the order of the pass."""
        return tuple(
            place
            for tap, place in self._found
            if place is not None and self._runs[tap.name] == 1 and place.cells > 1
        )

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Collect what this thread runs of a model for the duration."""
        with ExitStack() as stack:
            for name, module in model.named_modules():
                if name:
                    before = module.register_forward_pre_hook(self._enter(name), with_kwargs=True)
                    stack.callback(before.remove)
                stack.callback(module.register_forward_hook(self._leave(name)).remove)
            yield

    def _enter(self, name: str) -> Callable[[nn.Module, object, dict[str, object]], None]:
        def hook(_: nn.Module, args: object, kwargs: dict[str, object]) -> None:
            if threading.get_ident() == self._thread:
                value = first_tensor(args if args else tuple(kwargs.values()))
                if value is not None:
                    self._take(Tap(name, at_input=True), value)

        return hook

    def _leave(self, name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, args: object, output: object) -> None:
            if threading.get_ident() != self._thread:
                return
            self._runs[name] += 1
            if isinstance(output, Tensor) and gives_clues(module):
                self._clues.take(module, first_tensor(args), output)
            value, entered = first_tensor(output), first_tensor(args)
            if name and value is not None and not self._spreads(module, entered, value):
                self._take(Tap(name), value)

        return hook

    def _take(self, tap: Tap, value: Tensor) -> None:
        mark = (value, value._version)
        last = self._last
        if last is not None and last[1] == mark[1] and _is_same(last[0], value):
            known, place = self._found[-1]
            if not tap.at_input and not known.at_input and place is not None:
                self._found[-1] = (tap, Place(tap, place.layout, place.shape, place.size))
            return
        self._last = mark
        self._found.append((tap, self._place(tap, value)))

    def _spreads(self, module: nn.Module, entered: Tensor | None, left: Tensor) -> bool:
        """Whether a pooling leaves no fewer cells than it got, so that its input says as much."""
        is_pool = isinstance(module, _ADAPTIVE) and left.ndim == self._ndim
        return is_pool and entered is not None and left[0, 0].numel() >= entered[0, 0].numel()

    def _place(self, tap: Tap, value: Tensor) -> Place | None:
        is_map = value.ndim in (3, self._ndim) and len(value) == self._count
        if not is_map or not value.is_floating_point() or value.data_ptr() in self._given:
            return None
        if self._clues.is_of_heads(value):
            return None
        layout = self._clues.axis(value)
        if value.ndim < self._ndim and (layout == LOST or not isinstance(layout, tuple)):
            return None  # tokens on no grid that the pass has shown
        grid = feature_grid(value, self._size, tap.name, layout)
        return Place(tap, layout, tuple(grid.shape[1:]), self._size)


def _is_same(one: Tensor, other: Tensor) -> bool:
    return (
        one.data_ptr() == other.data_ptr()
        and one.shape == other.shape
        and one.stride() == other.stride()
    )
