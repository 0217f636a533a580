"""A function that calls a model, as a module whose layers can be read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

from captum_kmex.model.activations import unwrap

__all__ = ["CalledModel", "check_module"]


class CalledModel(nn.Module):
    """A function with the modules that it calls as its parts.

    They are those that it is a method of, holds in its closure or in a ``partial``, or knows by a
    global name; and layers that are given and stand in none of them.

    Args:
        function: Takes images, and further arguments, and returns logits.
        layers: Modules whose maps are read.
    """

    def __init__(self, function: Callable[..., object], layers: Iterable[object]) -> None:
        super().__init__()
        self.function = function
        for name, value in _named(function):
            if isinstance(value, nn.Module) and not hasattr(self, name):
                self.add_module(name, unwrap(value))
        for i, layer in enumerate(layers):
            if isinstance(layer, nn.Module) and layer not in set(self.modules()):
                self.add_module(f"layer_{i}", layer)

    @property
    def training(self) -> bool:
        """Whether any of the modules is in training mode."""
        return any(module.training for module in self.children())

    @training.setter
    def training(self, mode: bool) -> None:
        """Leave it to the modules."""

    def forward(self, *args: object) -> Any:
        """Call the function."""
        return self.function(*args)


def check_module(model: nn.Module, what: str) -> None:
    """Raise ``TypeError`` for a function, which would go on calling the modules that it knows.

    Args:
        model: What is to be copied.
        what: What it is copied for.
    """
    if isinstance(model, CalledModel):
        raise TypeError(
            f"{what} copies the model, and a function would go on calling the original's modules; "
            "pass a torch.nn.Module whose forward does what the function does"
        )


def _named(function: object) -> Iterator[tuple[str, object]]:
    """Yield what a function holds, by name."""
    if isinstance(function, functools.partial):
        yield from _named(function.func)
        yield from ((f"argument_{i}", value) for i, value in enumerate(function.args))
        yield from function.keywords.items()
        return
    owner = getattr(function, "__self__", None)
    if owner is not None:
        yield "owner", owner
    plain = getattr(function, "__func__", function)
    if not hasattr(plain, "__code__"):  # an object that can be called
        yield from vars(function).items() if hasattr(function, "__dict__") else ()
        plain = vars(type(function)).get("__call__")
    code = getattr(plain, "__code__", None)
    if code is None:
        return
    for name, cell in zip(code.co_freevars, getattr(plain, "__closure__", None) or (), strict=True):
        yield name, cell.cell_contents
    known = getattr(plain, "__globals__", {})
    yield from ((name, known[name]) for name in code.co_names if name in known)
