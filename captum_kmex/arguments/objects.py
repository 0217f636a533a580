"""Kinds of values that are objects: models, layers, paths, pictures, results."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from captum_kmex.arguments.misfits import Misfit

_ENGINES = {
    "torch.export": "an exported program",
    "torch.jit": "TorchScript",
    "torch._C": "TorchScript",
    "torch._inductor": "compiled code",
    "onnxruntime": "a session of ONNX Runtime",
    "onnx": "an ONNX graph",
    "openvino": "an OpenVINO graph",
    "tensorrt": "a TensorRT engine",
}

__all__ = ["Callback", "Color", "Instance", "Layer", "Model", "Path", "Picture", "Values"]

# what numbers pass for what is asked for
_HELD = {
    "real": ("whole", "floating-point", "logical"),
    "floating-point": ("floating-point",),
    "whole": ("whole",),
}


@dataclass(frozen=True)
class Instance:
    """An object of a class of ours or of matplotlib's, told by the class's address.

    Attributes:
        types: Addresses such as ``"captum_kmex.bank.prototype_bank:PrototypeBank"``.
        said: The object in words, and where it comes from.
    """

    types: tuple[str, ...]
    said: str

    def read(self, value: object) -> object:
        """Return the value in its plainest form; see ``Kind``."""
        for address in self.types:
            module, _, name = address.partition(":")
            # nothing is imported: an object's class has been, before it was made
            kind = getattr(sys.modules.get(module), name, None)
            if isinstance(kind, type) and isinstance(value, kind):
                return value
        raise Misfit(value, self.said)


@dataclass(frozen=True)
class Model:
    """A module; what else a user may hold in its place is named with the fix.

    Attributes:
        said: The module in words.
        takes_functions: A function that calls one will do.
    """

    said: str = "a torch.nn.Module, whose layers can be read"
    takes_functions: bool = False

    def read(self, value: object) -> object:
        """Return the value in its plainest form; see ``Kind``."""
        is_function = callable(value) and not isinstance(value, type) and not engine_of(value)
        if isinstance(value, nn.Module) or (self.takes_functions and is_function):
            return value
        if isinstance(value, type) and issubclass(value, nn.Module):
            raise Misfit(value, f"{self.said} (make one: {value.__name__}(...))")
        if isinstance(value, Mapping):
            raise Misfit(value, f"{self.said} (load weights by model.load_state_dict(weights))")
        engine = engine_of(value)
        raise Misfit(value, f"{self.said}, not {engine}" if engine else self.said)


def engine_of(model: object) -> str:
    """Say what a model that is no module is made of, if that is known."""
    place = type(model).__module__
    return next((kind for start, kind in _ENGINES.items() if place.startswith(start)), "")


@dataclass(frozen=True)
class Layer:
    """A layer, by name or as a module of the model."""

    said: str = "a layer's name or the module itself"

    def read(self, value: object) -> str | nn.Module:
        """Return the value in its plainest form; see ``Kind``."""
        if isinstance(value, str):
            if not value:
                raise Misfit(value, self.said, "names the whole model; give one of its layers")
            return str(value)
        if not isinstance(value, nn.Module):
            raise Misfit(value, self.said)
        return value


@dataclass(frozen=True)
class Path:
    """A path of the file system.

    Attributes:
        is_folder: A folder, not a file.
        said: The path in words.
    """

    is_folder: bool = False
    said: str = "a path, as str or os.PathLike"

    def read(self, value: object) -> str | os.PathLike[str]:
        """Return the value in its plainest form; see ``Kind``."""
        if not isinstance(value, (str, os.PathLike)) or isinstance(value, type):
            raise Misfit(value, self.said)
        text = os.fspath(value)
        if not isinstance(text, str):
            raise Misfit(text, self.said)
        if not text.strip() or "\0" in text or not _is_encodable(text):
            raise Misfit(text, self.said, "is no path; give the name of a file")
        if not self.is_folder and os.path.isdir(text):
            raise Misfit(text, self.said, "is a folder; give a file in it")
        return value


@dataclass(frozen=True)
class Values:
    """A tensor or an array of real numbers that is not empty.

    Attributes:
        dims: Numbers of dimensions allowed.
        shape: The shape in words.
        holds: ``"real"``, ``"floating-point"`` or ``"whole"`` numbers.
        is_array: A NumPy array, not a tensor.
    """

    dims: tuple[int, ...]
    shape: str
    holds: str = "real"
    is_array: bool = False

    @property
    def said(self) -> str:
        """The allowed values in words."""
        kind = "NumPy array" if self.is_array else "tensor"
        return f"a {kind} {self.shape} of {self.holds} numbers"

    def read(self, value: object) -> object:
        """Return the value in its plainest form; see ``Kind``."""
        kind = np.ndarray if self.is_array else Tensor
        if not isinstance(value, kind) or _holding(value) not in _HELD[self.holds]:
            raise Misfit(value, self.said)
        if value.ndim not in self.dims or not all(value.shape):
            raise Misfit(value, self.said, f"should have the shape {self.shape}")
        return value


@dataclass(frozen=True)
class Picture:
    """A picture (H, W), (H, W, 3) or (H, W, 4) as an array.

    Attributes:
        takes_tensors: An image (C, H, W) as a tensor is one too.
    """

    takes_tensors: bool = True

    @property
    def said(self) -> str:
        """The allowed values in words."""
        end = ", or an image tensor (C, H, W)" if self.takes_tensors else ""
        return f"a picture as a NumPy array (H, W) or (H, W, 3){end}"

    def read(self, value: object) -> object:
        """Return the value in its plainest form; see ``Kind``."""
        kinds = (np.ndarray, Tensor) if self.takes_tensors else np.ndarray
        if not isinstance(value, kinds) or _holding(value) not in _HELD["real"]:
            raise Misfit(value, self.said)
        if not _is_picture(tuple(value.shape), isinstance(value, np.ndarray)):
            is_other = isinstance(value, Tensor) and value.ndim in (2, 4)
            hint = "; signals and volumes are drawn by Explanation.plot alone" if is_other else ""
            raise Misfit(value, self.said, f"should be {self.said}{hint}")
        return value


@dataclass(frozen=True)
class Color:
    """A colour as matplotlib takes them."""

    said: str = "a colour that matplotlib knows"

    def read(self, value: object) -> object:
        """Return the value in its plainest form; see ``Kind``."""
        from matplotlib.colors import is_color_like  # heavy, and for figures only

        if not isinstance(value, (str, tuple, list, np.ndarray)) or not is_color_like(value):
            raise Misfit(value, self.said)
        return value


@dataclass(frozen=True)
class Callback:
    """A function of one argument."""

    said: str = "a function of one argument"

    def read(self, value: object) -> object:
        """Return the value in its plainest form; see ``Kind``."""
        if not callable(value) or isinstance(value, type) or not _takes_one(value):
            raise Misfit(value, self.said)
        return value


def _takes_one(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # it does not tell
        return True
    return True


def _is_picture(shape: tuple[int, ...], is_array: bool) -> bool:
    if not all(shape):
        return False
    if not is_array:
        return len(shape) == 3
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))


def _is_encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _holding(value: Tensor | np.ndarray) -> str:
    """Return what numbers a tensor or an array holds; nothing where they cannot be read."""
    if isinstance(value, np.ndarray):
        return {"i": "whole", "u": "whole", "f": "floating-point", "b": "logical"}.get(
            value.dtype.kind, ""
        )
    if value.is_meta or value.is_quantized or value.layout != torch.strided or value.is_complex():
        return ""
    if value.is_floating_point():
        return "floating-point"
    return "logical" if value.dtype == torch.bool else "whole"
