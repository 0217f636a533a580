"""Several layers and the logits in one forward pass."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from captum_kmex.exceptions import LayerCallWarning, TrainModeWarning, warn_user
from captum_kmex.grids import grid_of
from captum_kmex.model.calls import Call, CallLog
from captum_kmex.model.chosen_output import original
from captum_kmex.model.hooks import Recorder, coarser, is_finite
from captum_kmex.model.layout import Layout
from captum_kmex.model.modes import Modes
from captum_kmex.model.outputs import as_logits, has_logits
from captum_kmex.model.tail import TailCut

__all__ = [
    "Trace",
    "evaluation",
    "layer_name",
    "plain_logits",
    "run",
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
        has_logits: They are the model's; otherwise zeros, of a model that returns none.
        outcome: The same in the model's own type, with the tape of its tail if a cut records it.
        features: Layer name to its output, float tensor ``(N, D, *grid)``, detached copies.
        entering: Layer name to its input, likewise.
        order: Names of the recorded modules in the order in which they first finished.
        dtype: The coarsest floating-point type among the records and the output.
        size: Size of the input.
        axes: Layer name to the dimension of its channels; of its input, if that was recorded.
        tap_axis: The same of the tap.
        calls: The last module calls in order of completion (empty unless asked for).
        taps: Module name to the map ``(N, D, *grid)`` of its last call: of ``tap``, and of some of
            the last modules where calls were asked for.
    """

    logits: Tensor
    outcome: Tensor
    has_logits: bool
    features: dict[str, Tensor]
    entering: dict[str, Tensor]
    order: tuple[str, ...]
    dtype: torch.dtype
    size: tuple[int, ...]
    axes: dict[str, Layout]
    tap_axis: Layout = 1
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
    axes: Mapping[str, Layout] | None = None,
    cut: TailCut | None = None,
    needs_logits: bool = True,
) -> Trace:
    """Run the model once and return its logits and the named layers' activations.

    The model runs in evaluation mode without gradients; its training flags and hooks are as
    before afterwards, also when it fails. Only calls of this thread are recorded.

    Args:
        model: The unwrapped model.
        inputs: Positional tensors, the batch ``(N, C, *size)`` first.
        layers: Modules whose output is recorded, at their first call.
        entering: Modules whose input is recorded, at their first call.
        tap: One more module whose output is recorded, at its last call, not of the user's
            choosing.
        additional_forward_args: Further positional arguments.
        tail: Number of last module calls to record, for the search of the head.
        watched: Names of the modules whose calls are recorded; all if ``None``.
        with_moments: Record moments of the calls' maps, not their shapes alone.
        axes: Dimension of the channels of layers, where it is known.
        cut: Where to cut the pass, to record its tail.
        needs_logits: Refuse a model without any; otherwise such a one has a logit of 0.

    Raises:
        ValueError: A layer never ran, has no grid, or holds NaN or Inf; or the output is
            not (N, J) logits.
    """
    size = grid_of(inputs[0])
    recorder = Recorder(layers, entering, tap, axes, inputs[0].ndim)
    log = CallLog(size, tail, with_moments) if tail else None
    with recorder.attached(model, log, watched):
        output = _forward(model, inputs, additional_forward_args, cut)
    features = {name: recorder.output_grid(name, size) for name in layers}
    entered = {name: recorder.input_grid(name, size) for name in entering}
    taps = {} if log is None else log.maps()
    if tap is not None:
        taps[tap] = recorder.tap_grid(size)
    _warn_repeated([*layers, *entering], recorder.counts)
    images = inputs[0]
    are_there = needs_logits or has_logits(output, images)
    nothing = torch.zeros(len(images), 1, device=images.device)
    logits = as_logits(output, images) if are_there else nothing
    return Trace(
        logits=_plain(logits),
        features=features,
        entering=entered,
        order=tuple(recorder.counts),
        dtype=coarser(recorder.dtype, logits.dtype),
        size=size,
        axes=recorder.axes | recorder.entering_axes,
        tap_axis=recorder.tap_axis,
        calls=() if log is None else tuple(log.calls),
        taps=taps,
        outcome=logits,
        has_logits=are_there,
    )


def run(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    args: tuple[object, ...] = (),
    cut: TailCut | None = None,
    count: int | None = None,
) -> Tensor:
    """Run the model once, without gradients but in the tail of a cut, and return its logits.

    Args:
        model: The unwrapped model.
        inputs: Positional tensors, the batch ``(N, C, *size)`` first.
        args: Further positional arguments.
        cut: Where to cut the pass.
        count: Rows of logits, if a cut makes them other than one an image.

    Returns:
        Float tensor (N, J) in the model's own type, with the tape of the tail.

    Raises:
        ValueError: The output is not (N, J) logits.
    """
    output = _forward(model, inputs, args, cut)
    return as_logits(output, inputs[0] if count is None else torch.empty(count))


def _forward(
    model: nn.Module, inputs: tuple[Tensor, ...], args: tuple[object, ...], cut: TailCut | None
) -> object:
    """Run the model once, without gradients but in the tail of a cut."""
    with evaluation(model), ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if cut is not None:
            if cut.records:  # what inference mode makes, no tape takes
                stack.enter_context(torch.inference_mode(False))
                inputs = tuple(x.clone() if x.is_inference() else x for x in inputs)
            stack.enter_context(torch.set_grad_enabled(cut.records and cut.course.from_start))
            stack.enter_context(cut.attached(model))
        # `_call_impl` is the eager path of a model compiled in place by `model.compile()`
        return model._call_impl(*inputs, *args)


def plain_logits(
    model: nn.Module, inputs: tuple[Tensor, ...], args: tuple[object, ...], count: int
) -> Tensor:
    """Run the model once and return its logits (count, J), detached, in float32 or wider.

    Raises:
        ValueError: There are not so many, or they hold NaN or Inf.
    """
    return _plain(run(model, inputs, args, count=count))


def _plain(logits: Tensor) -> Tensor:
    if not is_finite(logits.detach()):
        raise ValueError("the logits hold NaN or Inf; check the inputs and the model's weights")
    return logits.detach().to(torch.promote_types(logits.dtype, torch.float32))


def warn_training(model: nn.Module) -> None:
    """Warn of a model in training mode."""
    if model.training:
        warn_user(
            "the model is in training mode; it is explained in evaluation mode "
            "(call model.eval() to silence this)",
            TrainModeWarning,
        )


@contextmanager
def evaluation(model: nn.Module, *, warns: bool = True) -> Iterator[None]:
    """Evaluation mode for the duration; the last of several threads gives the modes back."""
    model = original(model)
    with _lock:
        users, modes = _evaluated.get(model, (0, None))
        if not users and any(module.training for module in model.modules()):
            if warns:
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
