"""Find the tap (last feature map) and the linear layer that make a model's logits (eqs. 4, 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from captum_kmex.exceptions import HeadNotFoundError
from captum_kmex.model.activations import Trace
from captum_kmex.model.calls import Call, Record, is_linear, moments
from captum_kmex.model.head import HeadSite, Kind, LinearHead, is_close, weights
from captum_kmex.model.hooks import own_hooks
from captum_kmex.model.layout import CONVOLUTIONS, NORMS, Convolution

__all__ = ["find_head", "head_output"]


_PLAIN = tuple(kind.forward for kind in (nn.Linear, *CONVOLUTIONS))


def find_head(trace: Trace, linear: str | None = None) -> HeadSite:
    """Find the map and the linear layer that give the logits, and verify that they do.

    Args:
        trace: A forward pass recorded with ``tail``.
        linear: Take this module as the head, whatever the model does with its output.

    Raises:
        HeadNotFoundError: No map was found of which a linear layer makes the logits; says
            what was found.
    """
    calls, dtype = trace.calls, trace.dtype
    index = _head_index(trace, linear)
    head = calls[index]
    if head.entered is None or head.left is None:
        raise HeadNotFoundError(f"the head {head.name!r} got or returned no tensor")
    _check_plain(head, dtype)
    rectified = _pooled_after(head, trace.logits, dtype)
    kinds: tuple[Kind, ...] = ("pooled", "flatten")
    if isinstance(head.module, CONVOLUTIONS) and (rectified or head.entered.positions > 1):
        kinds = ("convolution",)
    for kind in kinds:
        found = _search(calls[:index], head.entered, kind, dtype)
        if found is not None:
            call, relu = found
            shape = call.left.grid[1:]  # type: ignore[union-attr,index]  # it was compared
            return HeadSite(call.name, relu, head.name, kind, bool(rectified), shape, trace.size)
    raise HeadNotFoundError(_refusal(head, calls[:index], dtype))


def head_output(trace: Trace, site: HeadSite) -> Tensor | None:
    """Return the pooled output (N, J) of the head in a pass that recorded its calls."""
    for call in reversed(trace.calls):
        if call.name == site.linear and call.left is not None:
            found = call.left.moments
            if found is None or (call.left.positions == 1 and not site.rectified):
                return call.left.table
            return (found.rectified if site.rectified else found.plain)[..., 0]
    return None


def _head_index(trace: Trace, linear: str | None) -> int:
    candidates = [i for i, call in enumerate(trace.calls) if is_linear(call.module)]
    if linear is not None:
        named = [i for i in candidates if trace.calls[i].name == linear]
        if not named:
            raise HeadNotFoundError(
                f"head {linear!r} is not a Linear or 1x1 Conv2d among the last modules that ran"
            )
        return named[-1]
    for i in reversed(candidates):
        left = trace.calls[i].left
        if left is None or _channels(left) != trace.logits.shape[1]:
            continue
        is_output = left.table is not None and is_close(left.table, trace.logits, trace.dtype)
        if is_output or _pooled_after(trace.calls[i], trace.logits, trace.dtype) is not None:
            return i
    last = repr(trace.calls[candidates[-1]].name) if candidates else "none"
    raise HeadNotFoundError(
        "the model's output is not the output of a linear layer (the last one that ran: "
        f"{last}): something follows or surrounds it, such as softmax, scaling, or the sum or "
        "concatenation of several layers. Let the model return logits, without softmax or scaling"
    )


def _channels(record: Record) -> int:
    return record.shape[1] if record.grid is None else record.grid[1]


def _check_plain(head: Call, dtype: torch.dtype) -> None:
    """Raise ``HeadNotFoundError`` unless a layer returned what its weights say."""
    module, kind = head.module, type(head.module).__name__
    if isinstance(module, CONVOLUTIONS) and not _keeps_positions(module):
        raise HeadNotFoundError(
            f"the head {head.name!r} ({kind}) has stride {module.stride}, padding "
            f"{module.padding} and {module.groups} groups, so it does not weigh every position "
            "of its map alike"
        )
    weight, bias = weights(module)
    entered, left = (_mean(record) for record in (head.entered, head.left))
    if entered is None or left is None or entered.shape[1] != weight[0].numel():
        raise HeadNotFoundError(
            f"the head {head.name!r} ({kind}) does not read a table of features (N, F) or a map"
        )
    columns = weight.detach().to(entered).flatten(1)
    offset = columns.new_zeros(len(columns)) if bias is None else bias.detach().to(entered)
    cells = entered[..., None, None]
    if bool(LinearHead(columns, offset).misses(cells, left, dtype).any()):
        raise HeadNotFoundError(
            f"the head {head.name!r} ({kind}) does not compute weight @ features + bias "
            f"({_why_not_plain(module)}), so its weights are no prototypes"
        )


def _keeps_positions(module: Convolution) -> bool:
    padding = module.padding
    is_unpadded = padding in ("same", "valid") if isinstance(padding, str) else not any(padding)
    return set(module.stride) == {1} and is_unpadded and module.groups == 1


def _mean(record: Record | None) -> Tensor | None:
    if record is None or record.table is not None:
        return None if record is None else record.table
    return None if record.moments is None else record.moments.plain[..., 0]


def _why_not_plain(module: nn.Module) -> str:
    if own_hooks(module, "_forward_hooks") or own_hooks(module, "_forward_pre_hooks"):
        return "a forward hook changes what it gets or returns"
    if type(module).forward not in _PLAIN:
        return "it has a forward of its own"
    return "its weights are not those that it uses"


def _pooled_after(head: Call, logits: Tensor, dtype: torch.dtype) -> bool | None:
    """Whether a ReLU stands between a convolutional head and its pooling; None if not such."""
    if not isinstance(head.module, CONVOLUTIONS) or head.left is None or head.left.moments is None:
        return None
    if is_close(head.left.moments.plain[..., 0], logits, dtype):
        return False
    return True if is_close(head.left.moments.rectified[..., 0], logits, dtype) else None


def _search(
    calls: Sequence[Call], wanted: Record, kind: Kind, dtype: torch.dtype
) -> tuple[Call, bool] | None:
    """Return the call whose map gives what the head reads, and whether ReLU follows."""
    best: tuple[Call, bool] | None = None
    positions = 0
    seen: set[str] = set()
    for call in reversed(calls):
        # a module that ran twice is captured at its last call only
        is_new = call.name not in seen
        seen.add(call.name)
        if not is_new or call.left is None or call.left.moments is None:
            continue
        if call.left.positions <= positions or _is_a_pooled_cell(call, dtype):
            continue
        found = call.left.moments
        for relu, ours in ((False, found.plain), (True, found.rectified)):
            if _is_read(ours, call.left, wanted, kind, dtype):
                best, positions = (call, relu), call.left.positions
                break
    return best


def _is_read(ours: Tensor, left: Record, wanted: Record, kind: Kind, dtype: torch.dtype) -> bool:
    """Whether a map of these moments (N, D, 2) gives the head its input."""
    table = wanted.table
    if kind == "pooled":
        return table is not None and is_close(ours[..., 0], table, dtype)
    if kind == "convolution":
        theirs = wanted.moments
        return (
            wanted.grid == left.grid and theirs is not None and is_close(ours, theirs.plain, dtype)
        )
    size = ours.shape[1] * left.positions
    if table is None or table.shape != (len(ours), size):
        return False
    return is_close(ours, moments(table.view(*ours.shape[:2], left.positions)), dtype)


def _is_a_pooled_cell(call: Call, dtype: torch.dtype) -> bool:
    """Whether a map of one cell is the outcome of pooling, or cannot be told from it."""
    before, after = call.entered, call.left
    if after is None or after.positions != 1:
        return False
    if call.is_pooled or before is None or before.moments is None or after.moments is None:
        return call.is_pooled
    return is_close(before.moments.plain, after.moments.plain, dtype)


def _refusal(head: Call, before: Sequence[Call], dtype: torch.dtype) -> str:
    """Name what stands between the last feature map and the head."""
    spatial = [i for i, call in enumerate(before) if call.left is not None and call.left.is_spatial]
    leaves = [
        call
        for call in before[spatial[-1] + 1 if spatial else 0 :]
        if not any(call.module.children())
    ]
    between = ", ".join(f"{type(call.module).__name__} {call.name!r}" for call in leaves)
    modules = [call.module for call in leaves]
    embedding = None if head.entered is None else head.entered.table
    if embedding is not None and any(_is_token(call, embedding, dtype) for call in before):
        reason = "it reads a class token, not a pooled map"
    elif any(isinstance(module, (nn.Linear, *CONVOLUTIONS)) for module in modules):
        reason = f"further layers stand between pooling and logits ({between})"
    elif any(isinstance(module, NORMS) for module in modules):
        reason = f"a normalisation stands between pooling and the linear layer ({between})"
    else:
        reason = f"no module's map has its input as spatial mean (modules in between: {between})"
    return (
        f"the logits cannot be read off a feature map: the head {head.name!r} was found, but "
        f"{reason}"
    )


def _is_token(call: Call, embedding: Tensor, dtype: torch.dtype) -> bool:
    token = None if call.left is None else call.left.token
    return token is not None and is_close(token, embedding, dtype)
