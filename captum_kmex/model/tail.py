"""A forward pass cut in two at a tap: what follows is differentiated, what comes before is not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from captum_kmex.grids import axes_of
from captum_kmex.model.held_scales import HeldScales
from captum_kmex.model.hooks import first_tensor
from captum_kmex.model.layout import CONVOLUTIONS

__all__ = ["Course", "TailCut", "Tap", "tapped"]


@dataclass(frozen=True)
class Tap:
    """Where a map stands in a model: what a module returns, or what it gets.

    Attributes:
        name: The module.
        at_input: What it gets.
    """

    name: str
    at_input: bool = False

    def __str__(self) -> str:
        return f"the input of {self.name!r}" if self.at_input else repr(self.name)


@dataclass(frozen=True)
class Course:
    """How the tail of a model is run.

    Attributes:
        from_start: Gradients are on from the start, for a model that switches them off itself.
        end: Module whose output, pooled, is what the tail computes; the logits if ``None``.
    """

    from_start: bool = False
    end: str | None = None


_PLAIN = Course()


class TailCut:
    """Puts a leaf of the tape in the place of a tap, so that a pass records its tail alone.

    Attach it inside ``no_grad``: gradients are switched on where the tap is reached, and the
    ``no_grad`` switches them off again at its end. A model that runs a part of its own without
    gradients switches them off too early; then they are to be on from the start.

    Args:
        tap: Where to cut.
        replace: Takes the tensor found there and returns what the tail gets.
        records: Record the tail; otherwise the tap is copied, and nothing else is done.
        watched: Taps in the tail whose tensors are kept, in ``seen``.
        course: How the tail is run.

    Attributes:
        leaf: The tensor at the tap, as the module has it.
        seen: The watched tensors, part of what was recorded.
    """

    def __init__(
        self,
        tap: Tap,
        replace: Callable[[Tensor], Tensor] | None = None,
        *,
        records: bool = True,
        watched: Sequence[Tap] = (),
        course: Course = _PLAIN,
    ) -> None:
        self.course = course
        self.tap, self.records, self.watched = tap, records, tuple(watched)
        self.leaf: Tensor | None = None
        self.seen: dict[Tap, Tensor] = {}
        self._replace = replace
        self._ended: Tensor | None = None
        self._end_ndims: tuple[int, ...] = (2,)
        self._holding = ExitStack()
        self._thread = threading.get_ident()

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Cut what this thread runs of a model for the duration."""
        with ExitStack() as stack:
            stack.enter_context(self._holding)
            for tap in self.watched:
                stack.callback(tapped(model, tap, self._watch(tap)).remove)
            stack.callback(tapped(model, self.tap, self._cut).remove)
            if self.course.end is not None:
                end = model.get_submodule(self.course.end)
                self._end_ndims = (2, 4)
                if isinstance(end, CONVOLUTIONS):
                    self._end_ndims = (2, 2 + len(end.kernel_size))
                stack.callback(tapped(model, Tap(self.course.end), self._finish).remove)
            yield

    def outcome(self, logits: Tensor) -> Tensor:
        """Return what the tail computed (N, J): the logits, or what ``end`` returned.

        Raises:
            RuntimeError: ``end`` returned neither a table (N, J) nor a map.
        """
        if self.course.end is None:
            return logits
        found = self._ended
        if found is None or found.ndim not in self._end_ndims or len(found) != len(logits):
            raise RuntimeError(f"{self.course.end!r} returned no logits (N, J)")
        return found.mean(axes_of(found)) if found.ndim > 2 else found

    def _cut(self, value: Tensor) -> Tensor | None:
        is_ours = threading.get_ident() == self._thread
        if not is_ours or self.leaf is not None:  # a module that runs again is not cut again
            return None
        value = value.detach()
        self.leaf = value.clone() if self._replace is None else self._replace(value)
        if not self.records:
            return None
        self.leaf.requires_grad_()
        torch.set_grad_enabled(True)
        self._holding.enter_context(HeldScales())
        return self.leaf.clone()  # the tail may write to it

    def _finish(self, value: Tensor) -> None:
        if threading.get_ident() == self._thread:
            self._ended = value

    def _watch(self, tap: Tap) -> Callable[[Tensor], None]:
        def keep(value: Tensor) -> None:
            if threading.get_ident() == self._thread:
                self.seen[tap] = value

        return keep


def tapped(model: nn.Module, tap: Tap, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Register a hook that gets the tensor at a tap, and may return another in its place."""
    module = model.get_submodule(tap.name)

    def after(_: nn.Module, args: object, output: Any) -> Any:  # noqa: ARG001
        value = first_tensor(output)
        new = None if value is None else hook(value)
        return None if new is None else _with_first(output, new)

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = args if args else tuple(kwargs.values())
        value = first_tensor(found)
        new = None if value is None else hook(value)
        if new is None:
            return None
        found = _with_first(found, new)
        return (found, kwargs) if args else (args, dict(zip(kwargs, found, strict=True)))

    if tap.at_input:
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


def _with_first(value: Any, new: Tensor) -> Any:
    """Return a tensor, tuple or list with another tensor in the place of its first one."""
    if isinstance(value, Tensor):
        return new
    place = next(i for i, item in enumerate(value) if isinstance(item, Tensor))
    items = [*value[:place], new, *value[place + 1 :]]
    if hasattr(value, "_fields"):  # a named tuple
        return type(value)(*items)
    return items if isinstance(value, list) else tuple(items)
