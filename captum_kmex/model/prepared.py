"""A private copy of a model that gives the same features sooner: folded, channels-last."""

from __future__ import annotations

import inspect
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import cast, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from captum_kmex.model.activations import Trace, trace, warn_training
from captum_kmex.model.chosen_output import original
from captum_kmex.model.copies import copied
from captum_kmex.model.hooks import own_hooks
from captum_kmex.model.layout import CONVOLUTIONS, Convolution
from captum_kmex.model.modes import evaluated
from captum_kmex.model.state import ModelState

__all__ = ["Preparation", "channels_last", "prepared_copy"]

# by name, since timm need not be there: their forward is the plain one, but for padding and
# for the activation that BatchNormAct2d ends with
_CONVS = ("Conv1d", "Conv2d", "Conv3d", "Conv2dSame")
_NORMS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "BatchNormAct2d")
_FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_HOOKS = (*_FORWARD_HOOKS, "_backward_hooks", "_backward_pre_hooks")
# far above the rounding of folded weights, TensorFloat-32 included, far below a wrong fold
_TOLERANCE, _ROUNDINGS = 1e-2, 16
_lock = threading.RLock()  # fx patches nn.Module for the whole process while it traces
_logger = logging.getLogger(__name__)

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
Pair = tuple[Convolution, BatchNorm]


def prepared_copy(model: nn.Module, keep: Sequence[str] = ()) -> nn.Module:
    """Copy a model, fold its batch norms into the convolutions before, set channels-last.

    A batch norm is folded where it alone reads its convolution, both are plain (or timm's), run
    once and have no forward hooks (as pruned and weight-normed ones have, whose weights are then
    computed as ever). It stays in its place and passes its input on, so names keep their meaning;
    only what the convolution itself returns is another. The copy runs the forward hooks of the
    model, the very objects; backward hooks are left behind.

    Args:
        model: The unwrapped model; it is not touched.
        keep: Layers whose input and output must stay what they are.

    Raises:
        ValueError: The model cannot be copied, or its forward pass cannot be traced.

    Reference:
        Jacob et al., "Quantization and Training of Neural Networks" (2018), section 3.2.
    """
    with _lock, torch.inference_mode(False), torch.no_grad():
        twin = _bare_copy(model)
        pairs = _pairs(twin)
        kept = [set(twin.get_submodule(name).modules()) for name in keep]
        for original, counterpart in zip(model.modules(), twin.modules(), strict=True):
            for kind in _FORWARD_HOOKS:
                getattr(counterpart, kind).update(own_hooks(original, kind))
        folded = [pair for pair in pairs if _is_foldable(pair, kept)]
        for conv, norm in folded:
            _fold(conv, norm)
        for parameter in twin.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    _logger.info("%s: %d batch norms folded, channels-last", type(model).__name__, len(folded))
    return twin


def channels_last(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the inputs (N, C, H, W) with their channels innermost in memory."""
    return tuple(
        x.detach().contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
        for x in inputs
    )


class Preparation:
    """Keeps one prepared copy in step with its model; copies and pickles leave it behind."""

    def __init__(self) -> None:
        self._state: ModelState | None = None
        self._copy: nn.Module | None = None
        self._kept: frozenset[str] = frozenset()
        self._compared: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()

    def __reduce__(self) -> tuple[type[Preparation], tuple[()]]:
        return Preparation, ()

    def current(self, model: nn.Module, layers: Sequence[str] = ()) -> nn.Module:
        """Return the copy, made again if the model has changed or other layers are read.

        Raises:
            ValueError: The model cannot be prepared.
        """
        with _lock:
            is_current = self._state is not None and self._state.is_of(model)
            if self._copy is None or not is_current or not self._kept.issuperset(layers):
                if self._copy is not None:
                    _logger.info("the model or the layers have changed: prepared again")
                kept = self._kept.union(layers) if is_current else frozenset(layers)
                state = ModelState(model)  # before the copy, so that a change meanwhile is seen
                self._copy = prepared_copy(model, sorted(kept))
                self._state, self._kept, self._compared = state, kept, set()
            return self._copy

    def compared(
        self,
        model: nn.Module,
        inputs: tuple[Tensor, ...],
        layers: Sequence[str],
        entering: Sequence[str],
        args: tuple[object, ...],
    ) -> nn.Module:
        """Return the copy, once its logits and these layers agree with the model's.

        The first call for a copy and its layers runs both; later ones trust the result.

        Raises:
            ValueError: They do not agree, or the model cannot be prepared.
        """
        asked = (tuple(layers), tuple(entering))
        with _lock:
            twin = self.current(model, [*layers, *entering])
            if asked in self._compared:
                warn_training(model)
                return twin
            options = {"entering": entering, "additional_forward_args": args}
            expected = trace(model, inputs, layers, **options)  # type: ignore[arg-type]
            found = trace(twin, channels_last(inputs), layers, **options)  # type: ignore[arg-type]
            _check_agreement(model, found, expected)
            self._compared.add(asked)
            return twin


class _FoldedNorm(nn.BatchNorm2d):
    """A batch norm whose convolution already does its work."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name is torch's
        return input


class _FoldedNormAct(nn.BatchNorm2d):
    """The same with dropout and activation, which timm keeps inside its batch norm."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name is torch's
        activated: Tensor = self.act(self.drop(input))  # type: ignore[operator]
        return activated


class _Tracer(fx.Tracer):
    """Records the calls of its own thread; other threads' models run as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_part = isinstance(m, (*CONVOLUTIONS, *get_args(BatchNorm)))
        return is_part or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


def _bare_copy(model: nn.Module) -> nn.Module:
    """Copy a model in evaluation mode, without its hooks, which must not be traced."""
    memo: dict[int, object] = {
        id(getattr(module, kind)): OrderedDict() for module in model.modules() for kind in _HOOKS
    }
    try:
        return evaluated(copied(model, memo))
    except Exception as error:
        raise _refusal(model, "it cannot be copied", error) from error


def _pairs(model: nn.Module) -> list[Pair]:
    """Return convolutions with the batch norms that alone read them, each run once."""
    model = original(model)
    try:
        _, *others = inspect.signature(model.forward).parameters.values()
        defaults = {p.name: p.default for p in others if p.default is not p.empty}
        graph = _Tracer().trace(model, concrete_args=defaults or None)
    except Exception as error:
        raise _refusal(model, "its forward pass cannot be traced by torch.fx", error) from error
    calls = [node for node in graph.nodes if node.op == "call_module"]
    module_of = {node: model.get_submodule(str(node.target)) for node in calls}
    counts = Counter(module_of.values())
    pairs = []
    for node in calls:
        norm, before = module_of[node], node.args[0] if node.args else None
        conv = module_of.get(before) if isinstance(before, fx.Node) else None
        if not isinstance(conv, CONVOLUTIONS) or not isinstance(norm, BatchNorm):
            continue
        is_alone = len(cast("fx.Node", before).users) == 1
        if is_alone and counts[conv] == counts[norm] == 1:
            pairs.append((conv, norm))
    return pairs


def _is_foldable(pair: Pair, kept: Sequence[set[nn.Module]]) -> bool:
    conv, norm = pair
    is_plain = type(conv).__name__ in _CONVS and type(norm).__name__ in _NORMS
    is_hooked = any(getattr(module, kind) for module in pair for kind in _FORWARD_HOOKS)
    # a layer with one of the two inside begins or ends between them
    is_cut = any((conv in inside) != (norm in inside) for inside in kept)
    return is_plain and norm.running_mean is not None and not is_hooked and not is_cut


def _fold(conv: Convolution, norm: BatchNorm) -> None:
    dtype = conv.weight.dtype
    wide = torch.promote_types(dtype, torch.float32)  # half would round twice
    tensors = (conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    weight, bias, mean, var, scale, shift = (t if t is None else t.to(wide) for t in tensors)
    fused = fuse_conv_bn_weights(weight, bias, mean, var, norm.eps, scale, shift)  # type: ignore[arg-type]
    conv.weight, conv.bias = (nn.Parameter(tensor.to(dtype)) for tensor in fused)
    norm.__class__ = _FoldedNormAct if hasattr(norm, "act") else _FoldedNorm


def _check_agreement(model: nn.Module, found: Trace, expected: Trace) -> None:
    """Raise ``ValueError`` unless two passes agree up to rounding."""
    tolerance = max(_TOLERANCE, _ROUNDINGS * torch.finfo(expected.dtype).eps)
    theirs = {"logits": expected.logits, **expected.features, **expected.entering}
    ours = {"logits": found.logits, **found.features, **found.entering}
    for name, tensor in theirs.items():
        error = (ours[name] - tensor).abs().max() if ours[name].shape == tensor.shape else torch.inf
        if not error <= tolerance * tensor.abs().max():
            raise ValueError(
                f"{type(model).__name__} cannot be prepared: {name!r} of the prepared copy is off "
                f"by {float(error):.3g}, where the model's values reach "
                f"{float(tensor.abs().max()):.3g}: its forward pass does not follow its trace by "
                "torch.fx, or magnifies rounding. Explain it without prepare()"
            )


def _refusal(model: nn.Module, what: str, error: Exception) -> ValueError:
    reason = (str(error).strip() or "no message").splitlines()[0]
    return ValueError(
        f"{type(model).__name__} cannot be prepared: {what} ({type(error).__name__}: {reason}). "
        "Explain it without prepare()"
    )
