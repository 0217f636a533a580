"""Models that are graphs or compiled code: no Python modules are left in them to read."""

from __future__ import annotations

import torch
from torch import fx, nn

from captum_kmex.arguments.objects import engine_of
from captum_kmex.model.activations import unwrap

__all__ = ["plain_model"]


def plain_model(model: object, who: str) -> nn.Module:
    """Return the Python module inside any wrapper.

    Args:
        model: What the user gave.
        who: Who asks, for the message.

    Raises:
        TypeError: It is no module, or a graph, whose layers do not run as modules.
    """
    plain = unwrap(model) if isinstance(model, nn.Module) else model
    kind = _graph(plain) if isinstance(plain, nn.Module) else engine_of(plain)
    if kind or not isinstance(plain, nn.Module):
        remedy = " that it was made from" if kind else ""
        raise TypeError(
            f"{who} needs a torch.nn.Module, whose layers can be read; got "
            f"{type(plain).__name__}{kind and f', {kind}'}. Pass the Python model{remedy}"
        )
    return plain


def _graph(model: nn.Module) -> str:
    """Say which graph a module is, or holds where nothing else has weights; else nothing."""
    kind = _kind(model)
    if kind or _has_own_weights(model):
        return kind
    kinds = ((name, _kind(module)) for name, module in model.named_modules())
    return next((f"whose {name!r} is {kind}" for name, kind in kinds if kind), "")


def _kind(module: nn.Module) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return "TorchScript (torch.jit)"
    if not isinstance(module, fx.GraphModule):
        return ""
    names = [str(node.target) for node in module.graph.nodes if node.op == "call_module"]
    called = (module.get_submodule(name) for name in names)
    if any(next(part.parameters(), None) is not None for part in called):
        return ""
    return "a graph of bare operations, as torch.export makes it"


def _has_own_weights(model: nn.Module) -> bool:
    """Whether any parameter belongs to a module outside the graphs; stops at the first."""
    if next(model.parameters(recurse=False), None) is not None:
        return True
    return any(_has_own_weights(child) for child in model.children() if not _kind(child))
