"""A network's twin for methods with rules by module: each module runs once, and adding is one.

Captum's DeepLift and LRP, and zennit, change how modules pass a gradient back. They cannot see
a sum written as ``+``, refuse or confuse a module that is called twice, and take timm's fused
normalisation and activation for one layer. Their authors' advice is to rewrite the network; this
does it, and the twin's logits are the network's own.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable

import torch
from torch import nn
from torch.fx import GraphModule, Node, Tracer
from torch.fx.proxy import TraceError

from benchmarks.quality.method import UnavailableError

__all__ = ["activation_names", "last_module", "with_plain_modules"]

_ADDITIONS = (operator.add, operator.iadd, torch.add)


class _LayerTracer(Tracer):
    """Look into everything but layers, those derived from PyTorch's own too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is called as a whole."""
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)


def with_plain_modules(model: nn.Module, addition: Callable[[], nn.Module]) -> GraphModule:
    """Return a copy whose modules each run once, in evaluation mode and not in place.

    Args:
        model: Network whose forward pass ``torch.fx`` can follow.
        addition: Makes a module that adds two tensors.

    Raises:
        UnavailableError: ``torch.fx`` cannot follow it.
    """
    tracer = _LayerTracer()
    try:
        graph = tracer.trace(_split_norms(copy.deepcopy(model).eval()))
    except TraceError as error:
        reason = f"torch.fx cannot follow this network, to rewrite it: {error}"
        raise UnavailableError(reason) from error
    traced = GraphModule(tracer.root, graph)
    seen: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            _give_own_module(traced, node, seen)
        elif node.op == "call_function" and node.target in _ADDITIONS and _adds_maps(node):
            name = f"{_stage(node)}addition_{len(seen)}"
            seen[name] = 1
            traced.add_submodule(name, addition())
            node.op, node.target = "call_module", name
    for module in traced.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]  # a plain attribute
    # a fresh one: its modules stand in the order of their calls
    return GraphModule(traced, graph).eval()


def last_module(twin: GraphModule, layer: str) -> nn.Module:
    """Return the twin's last module inside a layer of the network, activations apart."""
    calls = [str(node.target) for node in twin.graph.nodes if node.op == "call_module"]
    inside = [name for name in calls if name == layer or name.startswith(f"{layer}.")]
    modules = [twin.get_submodule(name) for name in inside]
    return [module for module in modules if not _is_activation(module)][-1]


def activation_names(model: nn.Module) -> set[str]:
    """Return the kinds of activation that a network has, such as ``{"ReLU6"}``."""
    return {type(module).__name__ for module in model.modules() if _is_activation(module)}


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == "torch.nn.modules.activation"


def _split_norms(model: nn.Module) -> nn.Module:
    """Take normalisations that also activate apart, as timm's ``BatchNormAct2d``."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and any(child.children()):
                norm = nn.BatchNorm2d(child.num_features, child.eps)
                norm.load_state_dict(child.state_dict())
                setattr(parent, name, nn.Sequential(norm.eval(), *child.children()))
    return model


def _give_own_module(traced: GraphModule, node: Node, seen: dict[str, int]) -> None:
    """Let the second and later calls of a module go to a copy of it."""
    name = str(node.target)
    count = seen[name] = seen.get(name, 0) + 1
    if count > 1:
        node.target = f"{name}_{count}"
        traced.add_submodule(node.target, copy.deepcopy(traced.get_submodule(name)))


def _adds_maps(node: Node) -> bool:
    return len(node.args) == 2 and all(isinstance(arg, Node) for arg in node.args)


def _stage(node: Node) -> str:
    """Return where an addition stands: beside the module that gave its first term."""
    first = node.args[0]
    name = str(first.target) if isinstance(first, Node) else ""
    return f"{name.rpartition('.')[0]}." if "." in name else ""
