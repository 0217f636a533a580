"""Several layers and the logits in one forward pass; the only file that touches hooks."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from captum_kmex.descriptions import described
from captum_kmex.exceptions import LayerCallWarning, TrainModeWarning, warn_user
from captum_kmex.model.calls import Call, CallLog
from captum_kmex.model.layout import (
    ChannelAxis,
    LayoutClues,
    feature_grid,
    gives_clues,
    has_plain_layout,
    works_on_last,
)
from captum_kmex.modes import Modes

__all__ = [
    "Recorder",
    "Trace",
    "layer_name",
    "own_hooks",
    "trace",
    "unwrap",
    "warn_training",
]

# models being explained: how many threads are at it, and the modes to give back
_evaluated: dict[nn.Module, tuple[int, Modes | None]] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Trace:
    """What one forward pass left behind.

    Attributes:
        logits: Float tensor (N, J), the model's output.
        features: Layer name to its output, float tensor (N, D, H, W), detached copies.
        entering: Layer name to its input, likewise.
        order: Names of the recorded modules in the order in which they first finished.
        dtype: The coarsest floating-point type among the records and the output.
        size: Height and width of the input.
        axes: Layer name to the dimension of its channels; of its input, if that was recorded.
        tap_axis: The same of the tap.
        calls: The last module calls in order of completion (empty unless asked for).
        taps: Module name to the map (N, D, H, W) of its last call: of ``tap``, and of some of
            the last modules where calls were asked for.
    """

    logits: Tensor
    features: dict[str, Tensor]
    entering: dict[str, Tensor]
    order: tuple[str, ...]
    dtype: torch.dtype
    size: tuple[int, int]
    axes: dict[str, ChannelAxis]
    tap_axis: ChannelAxis = 1
    calls: tuple[Call, ...] = ()
    taps: dict[str, Tensor] = field(default_factory=dict)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside ``DataParallel``, DDP and ``torch.compile`` wrappers.

    Hooks on a compiled graph may be skipped and hooks on replicas run elsewhere, so
    explanations run the plain module; it shares every parameter with the wrapper.
    """
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def layer_name(model: nn.Module, layer: str | nn.Module) -> str:
    """Resolve a layer to its name in the unwrapped model.

    Args:
        model: The unwrapped model.
        layer: Module name (wrapper prefixes are dropped) or a module of the model.

    Raises:
        ValueError: The layer is not in the model; the message names the nearest ones.
        TypeError: The layer is neither a name nor a module.
    """
    if isinstance(layer, nn.Module):
        layer = unwrap(layer)
        names = [name for name, module in model.named_modules() if module is layer]
        if not names:
            raise ValueError(
                f"the given {type(layer).__name__} module is not part of the model "
                f"{type(model).__name__}; pass one of its own modules or a name"
            )
        return str(names[0])
    if not isinstance(layer, str):
        raise TypeError(f"a layer is a name or a module; got {type(layer).__name__}")
    plain = layer
    while plain.startswith(("module.", "_orig_mod.")):
        plain = plain.split(".", 1)[1]
    for name in filter(None, (layer, plain)):
        try:
            model.get_submodule(name)
        except AttributeError:
            continue
        return name
    known = [name for name, _ in model.named_modules() if name]
    near = difflib.get_close_matches(plain, known, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    top = [name for name, _ in model.named_children()]
    raise ValueError(
        f"layer {layer!r} is not in the model {type(model).__name__}{hint} Top level: {top}"
    )


def trace(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    layers: Sequence[str] = (),
    *,
    entering: Sequence[str] = (),
    tap: str | None = None,
    additional_forward_args: tuple[object, ...] = (),
    tail: int = 0,
    watched: Collection[str] | None = None,
    with_moments: bool = True,
    axes: Mapping[str, ChannelAxis] | None = None,
) -> Trace:
    """Run the model once and return its logits and the named layers' activations.

    The model runs in evaluation mode without gradients; its training flags and hooks are as
    before afterwards, also when it fails. Only calls of this thread are recorded.

    Args:
        model: The unwrapped model.
        inputs: Positional tensors, the image batch (N, C, H, W) first.
        layers: Modules whose output is recorded, at their first call.
        entering: Modules whose input is recorded, at their first call.
        tap: One more module whose output is recorded, at its last call, not of the user's
            choosing.
        additional_forward_args: Further positional arguments.
        tail: Number of last module calls to record, for the search of the head.
        watched: Names of the modules whose calls are recorded; all if ``None``.
        with_moments: Record moments of the calls' maps, not their shapes alone.
        axes: Dimension of the channels of layers, where it is known.

    Raises:
        ValueError: A layer never ran, has no grid, or holds NaN or Inf; or the output is
            not (N, J) logits.
    """
    size = (inputs[0].shape[-2], inputs[0].shape[-1])
    recorder = Recorder(layers, entering, tap, axes)
    log = CallLog(size, tail, with_moments) if tail else None
    with _evaluation(model), recorder.attached(model, log, watched), torch.no_grad():
        # `_call_impl` is the eager path of a model compiled in place by `model.compile()`
        output = model._call_impl(*inputs, *additional_forward_args)
    features = {name: recorder.output_grid(name, size) for name in layers}
    entered = {name: recorder.input_grid(name, size) for name in entering}
    taps = {} if log is None else log.maps()
    if tap is not None:
        taps[tap] = recorder.tap_grid(size)
    _warn_repeated([*layers, *entering], recorder.counts)
    return Trace(
        logits=_logits(output, inputs[0]),
        features=features,
        entering=entered,
        order=tuple(recorder.counts),
        dtype=coarser(recorder.dtype, output.dtype),
        size=size,
        axes=recorder.axes | recorder.entering_axes,
        tap_axis=recorder.tap_axis,
        calls=() if log is None else tuple(log.calls),
        taps=taps,
    )


class Recorder:
    """Collects copies of activations while its hooks are attached.

    Args:
        layers: Modules whose output is recorded, in ``outputs``.
        entering: Modules whose input is recorded, in ``inputs``.
        tap: Module whose output at its last call is recorded, in ``tap_output``.
        axes: Dimension of the channels of layers, where it is known; the others' is found.
    """

    def __init__(
        self,
        layers: Sequence[str],
        entering: Sequence[str] = (),
        tap: str | None = None,
        axes: Mapping[str, ChannelAxis] | None = None,
    ) -> None:
        self.layers, self.entering, self.tap = frozenset(layers), frozenset(entering), tap
        self.outputs: dict[str, Tensor | None] = {}
        self.inputs: dict[str, Tensor | None] = {}
        self.tap_output: Tensor | None = None
        self.counts: dict[str, int] = {}
        self.axes: dict[str, ChannelAxis] = {}
        self.entering_axes: dict[str, ChannelAxis] = {}
        self.tap_axis: ChannelAxis = 1
        self.dtype = torch.float64
        self._known = dict(axes or {})
        self._clues = LayoutClues()
        self._entered: list[ChannelAxis] = []
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

    def output_grid(self, name: str, size: tuple[int, int]) -> Tensor:
        """Return a layer's output as a map (N, D, H, W).

        Args:
            name: One of the layers.
            size: Height and width of the model's input.

        Raises:
            ValueError: It never ran, returned no tensor, has no grid, or holds NaN or Inf.
        """
        return self._checked(self.outputs.get(name), name, size, self.axes.get(name, 1))

    def input_grid(self, name: str, size: tuple[int, int]) -> Tensor:
        """Return a layer's input as a map; errors are those of ``output_grid``."""
        return self._checked(self.inputs.get(name), name, size, self.entering_axes.get(name, 1))

    def tap_grid(self, size: tuple[int, int]) -> Tensor:
        """Return the tap as a map (N, D, H, W); errors are those of ``output_grid``."""
        return self._checked(self.tap_output, str(self.tap), size, self.tap_axis)

    def _checked(
        self, record: Tensor | None, name: str, size: tuple[int, int], axis: ChannelAxis
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

    def _clue(self) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, args: object, output: object) -> None:  # noqa: ARG001
            if threading.get_ident() == self._thread and isinstance(output, Tensor):
                self._clues.take(module, output)

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

    def _axis(self, name: str, value: Tensor | None) -> ChannelAxis:
        if name in self._known or value is None:
            return self._known.get(name, 1)
        return self._clues.axis(value)

    def _copy(self, value: Tensor | None) -> Tensor | None:
        """Clone a tensor: an in-place ReLU would overwrite the record (captum #156)."""
        if value is None:
            return None
        if value.is_quantized:
            raise TypeError(
                "the model is quantized: its layers pass on int8, in which there are no features "
                "to compare. Pass the Python model in floating point that it was made from"
            )
        self._note_dtype(value)
        wide = torch.float64 if value.dtype == torch.float64 else torch.float32
        # one pass over channels-last maps, which would be copied again later
        return value.detach().to(wide, copy=True, memory_format=torch.contiguous_format)

    def _note_dtype(self, value: Tensor | None) -> None:
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
        if getattr(hook, "__module__", None) != __name__
    }


def coarser(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """Return the floating-point type with fewer digits."""
    return max(one, other, key=lambda dtype: torch.finfo(dtype).eps)


def warn_training(model: nn.Module) -> None:
    """Warn of a model in training mode."""
    if model.training:
        warn_user(
            "the model is in training mode; it is explained in evaluation mode "
            "(call model.eval() to silence this)",
            TrainModeWarning,
        )


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the duration; the last of several threads gives the modes back."""
    with _lock:
        users, modes = _evaluated.get(model, (0, None))
        if not users and any(module.training for module in model.modules()):
            warn_training(model)
            modes = Modes(model)
            modes.evaluate()
        _evaluated[model] = (users + 1, modes)
    try:
        yield
    finally:
        with _lock:
            users, modes = _evaluated.pop(model)
            if users > 1:
                _evaluated[model] = (users - 1, modes)
            elif modes is not None:
                modes.restore()


def _warn_repeated(layers: Sequence[str], counts: dict[str, int]) -> None:
    for name in layers:
        if counts[name] > 1:
            warn_user(
                f"layer {name!r} ran {counts[name]} times in one forward pass; its first call "
                "is used (give the module before or after it to choose another)",
                LayerCallWarning,
            )


def _logits(output: object, images: Tensor) -> Tensor:
    if isinstance(output, Tensor) and output.ndim < 2 and output.numel() == len(images):
        is_single = output.is_floating_point()  # one logit, squeezed
        output = output.reshape(-1, 1) if is_single else output
    is_logits = isinstance(output, Tensor) and output.ndim == 2 and output.is_floating_point()
    if not isinstance(output, Tensor) or not is_logits or len(output) != len(images):
        got = described(output)
        if isinstance(output, Tensor):
            dtype = "" if output.is_floating_point() else f" of {output.dtype}"
            got = f"{tuple(output.shape)}{dtype}"
        raise ValueError(
            f"the model must return logits (N, J) for {len(images)} images; got {got}. Wrap "
            "it in a module that returns the logits"
        )
    if not is_finite(output):
        raise ValueError("the logits hold NaN or Inf; check the inputs and the model's weights")
    return output.detach().to(torch.float64 if output.dtype == torch.float64 else torch.float32)
