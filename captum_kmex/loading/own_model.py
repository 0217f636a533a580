"""Models that a function of the user makes, in a package or a file."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import nn

from captum_kmex.exceptions import UsageError
from captum_kmex.loading.opaque import check_open
from captum_kmex.loading.preprocessing import IMAGENET, Preprocessing, from_timm, input_channels
from captum_kmex.loading.zoos import IMAGENET_CLASSES, imagenet_names

__all__ = ["OwnModel"]


@dataclass(frozen=True)
class OwnModel:
    """A module, or a function that returns one, of a Python package or file.

    Attributes:
        place: ``package.module`` or ``file.py``.
        name: The module or function in it.
    """

    place: str
    name: str
    needs_weights = False

    def build(self, num_classes: int | None) -> nn.Module:
        """Import the code and make the model; ``num_classes`` is passed on if it is taken."""
        made = _imported(self.place, self.name)
        if not isinstance(made, nn.Module):
            check_open(made, f"{self.place}:{self.name}")
            made = _called(made, f"{self.place}:{self.name}", num_classes)
        check_open(made, f"{self.place}:{self.name}")
        if not isinstance(made, nn.Module):
            raise TypeError(
                f"{self.place}:{self.name} must be or return a torch.nn.Module; got "
                f"{type(made).__name__}"
            )
        return made

    def pretrained(self, weights: str) -> nn.Module:
        """Refuse: nobody publishes weights of the user's own model."""
        raise UsageError(
            f"--weights {weights} is for torchvision and timm; let {self.place}:{self.name} load "
            "its own, or pass a file"
        )

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        """Return timm's for a model of timm, ImageNet's for other colour models."""
        if hasattr(model, "pretrained_cfg"):
            return from_timm(model)
        channels = input_channels(model)
        if channels != len(IMAGENET.mean):
            raise UsageError(
                f"the model takes {channels} channels, for which no preprocessing is usual; give "
                "that of its training: --resize, --crop, --mean and --std"
            )
        return IMAGENET

    def class_names(self, model: nn.Module, n_classes: int) -> Sequence[str] | None:
        """Return ImageNet's for a model of timm with as many; of others nothing is known."""
        is_imagenet = n_classes == IMAGENET_CLASSES and hasattr(model, "pretrained_cfg")
        return imagenet_names() if is_imagenet else None


def _imported(place: str, name: str) -> object:
    """Import an attribute of a file or package; the working folder counts, as for ``python``."""
    if place.endswith(".py"):
        path = Path(place).expanduser()
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if not path.is_file() or spec is None or spec.loader is None:
            raise FileNotFoundError(f"no Python file {path}")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        spec.loader.exec_module(module)
    else:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        module = _module(place, name)
    if not hasattr(module, name):
        public = [key for key in vars(module) if not key.startswith("_")]
        near = difflib.get_close_matches(name, public, cutoff=0.4) or public[:8]
        raise AttributeError(f"{place} has no {name!r}; it has {', '.join(near)}")
    found: object = getattr(module, name)
    return found


def _module(place: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise  # the package is there, and lacks another
        raise UsageError(
            f"there is no Python package {place!r} for {place}:{name}. MODEL is torchvision:NAME, "
            "timm:NAME, hf:FOLDER, package.module:NAME or file.py:NAME"
        ) from error


def _called(make: object, text: str, num_classes: int | None) -> object:
    if not callable(make):
        raise TypeError(f"{text} is neither a torch.nn.Module nor a function that returns one")
    function: Callable[..., object] = make
    parameters = inspect.signature(function).parameters
    needed = [name for name, one in parameters.items() if name != "num_classes" and _is_needed(one)]
    if needed:
        raise UsageError(
            f"{text} cannot make a model from nothing: it takes {', '.join(needed)}. Name a "
            "function that takes nothing, or num_classes alone"
        )
    parameter = parameters.get("num_classes")
    if parameter is None:
        return function()
    if num_classes is not None:
        return function(num_classes=num_classes)
    if parameter.default is inspect.Parameter.empty:
        raise UsageError(f"{text} needs the number of classes; pass --num-classes")
    return function()


def _is_needed(parameter: inspect.Parameter) -> bool:
    is_many = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not is_many
