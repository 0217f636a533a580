"""Several layers and the logits in one forward pass; the only file that touches hooks."""

from __future__ import annotations

import difflib
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from captum_kmex.descriptions import described
from captum_kmex.exceptions import LayerCallWarning, TrainModeWarning
from captum_kmex.grids import feature_grid
from captum_kmex.modes import Modes

__all__ = [
    "Call",
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
class Call:
    """One module's call, as the forward pass made it.

    Attributes:
        name: Module name in the unwrapped model.
        module: The module itself.
        input: First tensor argument, or ``None``.
        output: First output tensor, or ``None``.
    """

    name: str
    module: nn.Module
    input: Tensor | None
    output: Tensor | None


@dataclass(frozen=True)
class Trace:
    """What one forward pass left behind.

    Attributes:
        logits: Float tensor (N, J), the model's output.
        features: Layer name to its output, float tensor (N, D, H, W), detached copies.
        entering: Layer name to its input, likewise.
        order: Names of the recorded modules in the order in which they last finished.
        dtype: The coarsest floating-point type among the records and the output.
        calls: The last module calls in order of completion (empty unless asked for).
    """

    logits: Tensor
    features: dict[str, Tensor]
    entering: dict[str, Tensor]
    order: tuple[str, ...]
    dtype: torch.dtype
    calls: tuple[Call, ...] = ()


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
) -> Trace:
    """Run the model once and return its logits and the named layers' activations.

    The model runs in evaluation mode without gradients; its training flags and hooks are as
    before afterwards, also when it fails. Only calls of this thread are recorded.

    Args:
        model: The unwrapped model.
        inputs: Positional tensors, the image batch (N, C, H, W) first.
        layers: Modules whose output is recorded.
        entering: Modules whose input is recorded.
        tap: One more module whose output is recorded, not of the user's choosing.
        additional_forward_args: Further positional arguments.
        tail: Number of last module calls to record, for the search of the head.

    Raises:
        ValueError: A layer never ran, has no grid, or holds NaN or Inf; or the output is
            not (N, J) logits.
    """
    size = (inputs[0].shape[-2], inputs[0].shape[-1])
    outputs = layers if tap is None or tap in layers else [*layers, tap]
    recorder = Recorder(outputs, entering, tail)
    with _evaluation(model), recorder.attached(model), torch.no_grad():
        # `_call_impl` is the eager path of a model compiled in place by `model.compile()`
        output = model._call_impl(*inputs, *additional_forward_args)
    features = {name: _grid(recorder, recorder.outputs, name, size) for name in outputs}
    entered = {name: _grid(recorder, recorder.inputs, name, size) for name in entering}
    _warn_repeated([*layers, *entering], recorder.counts)
    return Trace(
        logits=_logits(output, inputs[0]),
        features=features,
        entering=entered,
        order=tuple(recorder.order),
        calls=tuple(recorder.calls),
        dtype=coarser(recorder.dtype, output.dtype),
    )


class Recorder:
    """Collects copies of activations while its hooks are attached.

    Args:
        layers: Modules whose output is recorded, in ``outputs``.
        entering: Modules whose input is recorded, in ``inputs``.
        tail: Number of last module calls to record, in ``calls``.
    """

    def __init__(self, layers: Sequence[str], entering: Sequence[str] = (), tail: int = 0) -> None:
        self.layers, self.entering = frozenset(layers), frozenset(entering)
        self.outputs: dict[str, Tensor | None] = {}
        self.inputs: dict[str, Tensor | None] = {}
        self.counts: dict[str, int] = {}
        self.order: dict[str, None] = {}
        self.modules: dict[str, nn.Module] = {}
        self.dtype = torch.float64
        self.calls: deque[Call] = deque(maxlen=tail)
        self.thread = threading.get_ident()

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Record what this thread runs of a model for the duration."""
        with ExitStack() as stack:
            for name in self.layers | self.entering:
                module = self.modules[name] = model.get_submodule(name)
                if name in self.entering:
                    before = module.register_forward_pre_hook(self._before(name), with_kwargs=True)
                    stack.callback(before.remove)
                stack.callback(_hooked(module, name, self._after(name)).remove)
            for name, module in model.named_modules() if self.calls.maxlen else ():
                if name:
                    stack.callback(_hooked(module, name, self._last(name)).remove)
            yield

    def _before(self, name: str):  # type: ignore[no-untyped-def]  # torch types hooks loosely
        def hook(_: nn.Module, args: object, kwargs: dict[str, object]) -> None:
            if threading.get_ident() == self.thread:
                self.inputs[name] = self._copy(args if args else tuple(kwargs.values()))

        return hook

    def _after(self, name: str):  # type: ignore[no-untyped-def]  # torch types hooks loosely
        def hook(_: nn.Module, args: object, output: object) -> None:  # noqa: ARG001
            if threading.get_ident() == self.thread:
                self.counts[name] = self.counts.get(name, 0) + 1
                self.order.pop(name, None)
                self.order[name] = None
                if name in self.layers:
                    self.outputs[name] = self._copy(output)

        return hook

    def _last(self, name: str):  # type: ignore[no-untyped-def]  # torch types hooks loosely
        def hook(module: nn.Module, args: object, output: object) -> None:
            if threading.get_ident() == self.thread:
                self.calls.append(Call(name, module, self._copy(args), self._copy(output)))

        return hook

    def _copy(self, value: object) -> Tensor | None:
        """Clone the first tensor: an in-place ReLU would overwrite the record (captum #156)."""
        if isinstance(value, (tuple, list)):
            value = next((item for item in value if isinstance(item, Tensor)), None)
        if not isinstance(value, Tensor):
            return None
        if value.is_quantized:
            raise TypeError(
                "the model is quantized: its layers pass on int8, in which there are no features "
                "to compare. Pass the Python model in floating point that it was made from"
            )
        if value.is_floating_point():
            self.dtype = coarser(self.dtype, value.dtype)
        wide = torch.float64 if value.dtype == torch.float64 else torch.float32
        # one pass over channels-last maps, which would be copied again later
        return value.detach().to(wide, copy=True, memory_format=torch.contiguous_format)


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


def warn_training(model: nn.Module, stacklevel: int) -> None:
    """Warn of a model in training mode, at a level counted from this function."""
    if model.training:
        warnings.warn(
            "the model is in training mode; it is explained in evaluation mode "
            "(call model.eval() to silence this)",
            TrainModeWarning,
            stacklevel=stacklevel,
        )


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the duration; the last of several threads gives the modes back."""
    with _lock:
        users, modes = _evaluated.get(model, (0, None))
        if not users and any(module.training for module in model.modules()):
            warn_training(model, stacklevel=8)
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


def _grid(
    recorder: Recorder, records: dict[str, Tensor | None], name: str, size: tuple[int, int]
) -> Tensor:
    if name not in recorder.counts:
        raise ValueError(
            f"layer {name!r} did not run in the forward pass; choose a layer that the model "
            "calls as a module"
        )
    record = records[name]
    if record is None:
        raise ValueError(f"layer {name!r} returned no tensor; choose a layer that returns one")
    if not torch.isfinite(record.sum()):
        raise ValueError(
            f"layer {name!r} holds NaN or Inf; check the inputs and the model's weights, or "
            "run in a wider dtype"
        )
    return feature_grid(record, size, name, recorder.modules[name]).contiguous()


def _warn_repeated(layers: Sequence[str], counts: dict[str, int]) -> None:
    for name in layers:
        if counts[name] > 1:
            warnings.warn(
                f"layer {name!r} ran {counts[name]} times in one forward pass; its last call "
                "is used (give the module before or after it to choose another)",
                LayerCallWarning,
                stacklevel=6,
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
    if not torch.isfinite(output.sum()):
        raise ValueError("the logits hold NaN or Inf; check the inputs and the model's weights")
    return output.detach().to(torch.float64 if output.dtype == torch.float64 else torch.float32)
