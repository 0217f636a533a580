"""Compiled graphs and int8 models, whose layers cannot be looked into: one refusal for all."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import nn

__all__ = ["check_open", "opaque_archive", "opaque_kind"]

_REMEDY = (
    "its layers cannot be looked into. Give the Python model that it was made from, and its "
    "weights: torch.save(model.state_dict(), 'weights.pt')"
)
_ARCHIVES = {  # a part of a file's name in the archive, which only this kind has
    "/constants.pkl": "a TorchScript program (scripted or traced)",
    "/models/model.json": "an exported program (torch.export)",
    "/serialized_exported_program.json": "an exported program (torch.export)",
    "serialized_exported_program.json": "an exported program (torch.export)",
    "/.data/extern_modules": "a torch.package archive",
    "/.data/python_version": "a torch.package archive",
}
_INT8 = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.intrinsic.quantized",
    "torch.nn.quantized",
    "torch.nn.intrinsic.quantized",
)


def opaque_archive(path: Path) -> str:
    """Return why a file that is no state dict is refused; empty if it is no compiled graph."""
    if path.suffix.lower() in (".onnx", ".tflite"):
        return f"{path} is a program for another runtime: {_REMEDY}"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return ""
    kinds = [kind for end, kind in _ARCHIVES.items() if any(n.endswith(end) for n in names)]
    return f"{path} is {kinds[0]}: {_REMEDY}" if kinds else ""


def opaque_kind(made: object) -> str:
    """Return what kind of compiled or int8 model something is; empty if it is none."""
    if isinstance(made, torch.jit.ScriptModule):
        return "TorchScript (scripted or traced)"
    if isinstance(made, torch.export.ExportedProgram) or _is_exported_graph(made):
        return "an exported program (torch.export)"
    modules = made.modules() if isinstance(made, nn.Module) else []
    if any(type(module).__module__.startswith(_INT8) for module in modules):
        return "an int8 model (quantized modules)"
    return ""


def check_open(made: object, name: str) -> None:
    """Refuse a compiled graph or an int8 model.

    Args:
        made: What should be a module.
        name: What it is called, for the message.

    Raises:
        TypeError: It is one.
    """
    kind = opaque_kind(made)
    if not kind and isinstance(made, nn.Module):
        inside = ((part, opaque_kind(module)) for part, module in made.named_modules() if part)
        part, kind = next(((part, found) for part, found in inside if found), ("", ""))
        name = f"{part} in {name}" if kind else name
    if kind:
        raise TypeError(f"{name} is {kind}: {_REMEDY}")


def _is_exported_graph(made: object) -> bool:
    """Return whether a graph calls PyTorch's operators themselves and no layer."""
    if not isinstance(made, torch.fx.GraphModule):
        return False
    return any(isinstance(node.target, torch._ops.OpOverload) for node in made.graph.nodes)
