"""Hooks that record what the layers of a model return, and what tells their layout."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from captum_kmex.model.calls import CallLog
from captum_kmex.model.layout import (
    Layout,
    LayoutClues,
    feature_grid,
    gives_clues,
    has_plain_layout,
    works_on_last,
)

__all__ = ["Recorder", "coarser", "first_tensor", "is_finite", "own_hooks"]


class Recorder:
    """Collects copies of activations while its hooks are attached.

    Args:
        layers: Modules whose output is recorded, in ``outputs``.
        entering: Modules whose input is recorded, in ``inputs``.
        tap: Module whose output at its last call is recorded, in ``tap_output``.
        axes: Dimension of the channels of layers, where it is known; the others' is found.
        ndim: Dimensions of a map: those of the model's input.
    """

    def __init__(
        self,
        layers: Sequence[str],
        entering: Sequence[str] = (),
        tap: str | None = None,
        axes: Mapping[str, Layout] | None = None,
        ndim: int = 4,
    ) -> None:
        self.layers, self.entering, self.tap = frozenset(layers), frozenset(entering), tap
        self.outputs: dict[str, Tensor | None] = {}
        self.inputs: dict[str, Tensor | None] = {}
        self.tap_output: Tensor | None = None
        self.counts: dict[str, int] = {}
        self.axes: dict[str, Layout] = {}
        self.entering_axes: dict[str, Layout] = {}
        self.tap_axis: Layout = 1
        self.dtype = torch.float64
        self._known = dict(axes or {})
        self._ndim, self._clues = ndim, LayoutClues(ndim)
        self._entered: list[Layout] = []
        self._thread = threading.get_ident()

    @contextmanager
    def attached(
        self, model: nn.Module, log: CallLog | None = None, watched: Collection[str] | None = None
    ) -> Iterator[None]:
        """Record what this thread runs of a model for the duration, in a log its calls too."""
        asked = self.layers | self.entering | ({self.tap} if self.tap is not None else set())
        searches = log is not None and watched is None
        with ExitStack() as stack:
            if searches or not _have_plain_layout(model, asked - self._known.keys()):
                for module in filter(gives_clues, model.modules()):
                    stack.callback(module.register_forward_hook(self._clue()).remove)
                stack.callback(model.register_forward_pre_hook(self._see).remove)
            for name in asked:
                module = model.get_submodule(name)
                if name in self.entering:
                    before = module.register_forward_pre_hook(self._before(name), with_kwargs=True)
                    stack.callback(before.remove)
                stack.callback(_hooked(module, name, self._after(name)).remove)
            for name, module in model.named_modules() if log is not None else ():
                if name and (watched is None or name in watched):
                    stack.callback(_hooked(module, name, self._call(name, log)).remove)
                    stack.callback(module.register_forward_pre_hook(self._enter()).remove)
            yield

    def output_grid(self, name: str, size: tuple[int, ...]) -> Tensor:
        """Return a layer's output as a map ``(N, D, *grid)``.

        Args:
            name: One of the layers.
            size: Size of the model's input ``(*size)``.

        Raises:
            ValueError: It never ran, returned no tensor, has no grid, or holds NaN or Inf.
        """
        return self._checked(self.outputs.get(name), name, size, self.axes.get(name, 1))

    def input_grid(self, name: str, size: tuple[int, ...]) -> Tensor:
        """Return a layer's input as a map; errors are those of ``output_grid``."""
        return self._checked(self.inputs.get(name), name, size, self.entering_axes.get(name, 1))

    def tap_grid(self, size: tuple[int, ...]) -> Tensor:
        """Return the tap as a map ``(N, D, *grid)``; errors are those of ``output_grid``."""
        return self._checked(self.tap_output, str(self.tap), size, self.tap_axis)

    def _checked(
        self, record: Tensor | None, name: str, size: tuple[int, ...], axis: Layout
    ) -> Tensor:
        if name not in self.counts:
            raise ValueError(
                f"layer {name!r} did not run in the forward pass; choose a layer that the model "
                "calls as a module"
            )
        if record is None:
            raise ValueError(f"layer {name!r} returned no tensor; choose a layer that returns one")
        if not is_finite(record):
            raise ValueError(
                f"layer {name!r} holds NaN or Inf; check the inputs and the model's weights, or "
                "run in a wider dtype"
            )
        return feature_grid(record, size, name, axis).contiguous()

    def _before(self, name: str):  # type: ignore[no-untyped-def]  # torch types hooks loosely
        def hook(_: nn.Module, args: object, kwargs: dict[str, object]) -> None:
            if threading.get_ident() == self._thread and name not in self.inputs:
                value = first_tensor(args if args else tuple(kwargs.values()))
                self.inputs[name] = self._copy(value)
                self.entering_axes[name] = self._axis(name, value)

        return hook

    def _after(self, name: str):  # type: ignore[no-untyped-def]  # torch types hooks loosely
        def hook(_: nn.Module, args: object, output: object) -> None:  # noqa: ARG001
            if threading.get_ident() != self._thread:
                return
            self.counts[name] = self.counts.get(name, 0) + 1
            value, is_new = first_tensor(output), name in self.layers and name not in self.outputs
            if is_new:
                self.outputs[name] = self._copy(value)
                self.axes[name] = self._axis(name, value)
            if name == self.tap:
                self.tap_output = self.outputs[name] if is_new else self._copy(value)
                self.tap_axis = self._axis(name, value)

        return hook

    def _see(self, _: nn.Module, args: object) -> None:
        images = first_tensor(args)
        if threading.get_ident() == self._thread and images is not None:
            self._clues.see(images)

    def _clue(self) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, args: object, output: object) -> None:
            if threading.get_ident() == self._thread and isinstance(output, Tensor):
                self._clues.take(module, first_tensor(args), output)

        return hook

    def _enter(self) -> Callable[[nn.Module, object], None]:
        def hook(_: nn.Module, args: object) -> None:
            if threading.get_ident() == self._thread:
                self._entered.append(self._axis("", first_tensor(args)))

        return hook

    def _call(self, name: str, log: CallLog | None):  # type: ignore[no-untyped-def]  # as above
        def hook(module: nn.Module, args: object, output: object) -> None:
            if threading.get_ident() == self._thread and log is not None:
                entered, left = first_tensor(args), first_tensor(output)
                self._note_dtype(left)
                axes = (self._entered.pop(), self._axis(name, left))
                log.add(name, module, (entered, left), axes)

        return hook

    def _axis(self, name: str, value: Tensor | None) -> Layout:
        if value is None or (name in self._known and value.ndim == self._ndim):
            return self._known.get(name, 1)
        found = self._clues.axis(value)
        return self._known.get(name, found) if isinstance(found, int) else found

    def _copy(self, value: Tensor | None) -> Tensor | None:
        """Clone a tensor: an in-place ReLU would overwrite the record (captum #156)."""
        if value is None:
            return None
        self._note_dtype(value)
        wide = torch.float64 if value.dtype == torch.float64 else torch.float32
        # one pass over channels-last maps, which would be copied again later
        return value.detach().to(wide, copy=True, memory_format=torch.contiguous_format)

    def _note_dtype(self, value: Tensor | None) -> None:
        if value is not None and value.is_quantized:
            raise TypeError(
                "the model is quantized: its layers pass on int8, in which there are no features "
                "to compare. Pass the Python model in floating point that it was made from"
            )
        if value is not None and value.is_floating_point():
            self.dtype = coarser(self.dtype, value.dtype)


def _have_plain_layout(model: nn.Module, layers: Collection[str]) -> bool:
    """Whether layers have channels in dimension 1 by what they are made of alone."""
    return all(has_plain_layout(model.get_submodule(name)) for name in layers) or not any(
        map(works_on_last, model.modules())
    )


def first_tensor(value: object) -> Tensor | None:
    """Return a tensor, or the first one of a tuple or list, or ``None``."""
    if isinstance(value, (tuple, list)):
        value = next((item for item in value if isinstance(item, Tensor)), None)
    return value if isinstance(value, Tensor) else None


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor Inf; needs no memory, and no sum that overflows."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    low, high = tensor.aminmax()
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _hooked(
    module: nn.Module, name: str, hook: Callable[[nn.Module, object, object], None]
) -> RemovableHandle:
    """Register a forward hook, which a scripted part of a model refuses."""
    if isinstance(module, torch.jit.RecursiveScriptModule):  # type: ignore[attr-defined]  # it is
        raise TypeError(
            f"{name!r} is TorchScript (torch.jit), whose layers cannot be read by a torch.nn.Module"
            "'s hooks. Pass the Python model that it was made from"
        )
    return module.register_forward_hook(hook)


def own_hooks(module: nn.Module, kind: str) -> dict[int, object]:
    """Return the hooks of a module, by number, without those of an explanation under way.

    Args:
        module: Any module.
        kind: ``"_forward_hooks"`` or ``"_forward_pre_hooks"``.
    """
    hooks: dict[int, object] = getattr(module, kind)
    # a copy: another thread may be attaching its recorder
    return {
        number: hook
        for number, hook in list(hooks.items())
        if not str(getattr(hook, "__module__", "")).startswith(f"{__package__}.")
    }


def coarser(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """Return the floating-point type with fewer digits."""
    return max(one, other, key=lambda dtype: torch.finfo(dtype).eps)
