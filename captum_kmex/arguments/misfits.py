"""Why a value does not fit an option, in words."""

from __future__ import annotations

import reprlib

import numpy as np
from torch import Tensor

__all__ = ["Misfit", "described", "shortened"]

_LONG = 10**18  # whole numbers from here on are told by their length


class Misfit(Exception):  # noqa: N818  # never leaves the package: an option turns it into one that does
    """A value that an option cannot take.

    Attributes:
        value: The value, or the part of it that does not fit.
        allowed: What may stand in its place.
        reason: What is wrong with a value of the right type; empty for a wrong type.
        place: Where in the value the part stands, such as ``[2]``.
    """

    def __init__(self, value: object, allowed: str, reason: str = "", place: str = "") -> None:
        super().__init__(allowed)
        self.value, self.allowed, self.reason, self.place = value, allowed, reason, place

    def at(self, place: str) -> Misfit:
        """Return the same misfit, one level further out."""
        return Misfit(self.value, self.allowed, self.reason, f"{place}{self.place}")

    def error(self, name: str, remedy: str = "") -> TypeError | ValueError:
        """Return the exception to raise for an argument of this name."""
        end = f"; {remedy}" if remedy else ""
        where = f"{name}{self.place}"
        if self.reason:
            return ValueError(f"{where}={shortened(self.value)} {self.reason}{end}")
        return TypeError(f"{where} should be {self.allowed}; got {described(self.value)}{end}")


def described(value: object) -> str:
    """Return type and value, briefly, whatever the value."""
    if value is None or isinstance(value, type):
        return "None" if value is None else f"the class {value.__name__}"
    kind = type(value).__name__
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{kind} of {value.dtype} and shape {tuple(value.shape)}"
    if isinstance(value, (int, float, complex, str, bytes, list, tuple, dict, set, np.generic)):
        return f"{kind} {shortened(value)}"
    return kind


def shortened(value: object) -> str:
    """Return a value as Python writes it, cut where it is long."""
    if isinstance(value, int) and abs(value) >= _LONG:
        return f"(a whole number of {value.bit_length()} bits)"
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim:
        return f"({described(value)})"
    try:
        return reprlib.repr(value)
    except ValueError:  # a number inside it is too long to write
        return type(value).__name__
