"""Kinds of values that options take: each reads a value, or says why it does not fit."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from captum_kmex.arguments.misfits import Misfit

__all__ = ["Choice", "Key", "Kind", "Number", "OneOf", "Switch", "Text", "Whole", "whole_number"]


class Kind(Protocol):
    """What an option may be."""

    @property
    def said(self) -> str:
        """The allowed values in words, to follow "should be"."""

    def read(self, value: object) -> object:
        """Return the value in its plainest form.

        Raises:
            Misfit: It is none of this kind.
        """


@dataclass(frozen=True)
class Whole:
    """A whole number in a range: Python's, NumPy's or a 0-d tensor; no ``bool``."""

    low: int
    high: int

    @property
    def said(self) -> str:
        """The allowed values in words."""
        return f"a whole number between {self.low:,} and {self.high:,}"

    def read(self, value: object) -> int:
        """Return the value in its plainest form; see ``Kind``."""
        number = whole_number(value)
        if number is None:
            raise Misfit(value, self.said)
        if not self.low <= number <= self.high:
            raise Misfit(number, self.said, f"should be between {self.low:,} and {self.high:,}")
        return number


@dataclass(frozen=True)
class Number:
    """A finite number in a range: Python's, NumPy's or a 0-d tensor; no ``bool``.

    Attributes:
        low: The least.
        high: The greatest.
        is_open: The least itself is excluded.
    """

    low: float = -math.inf
    high: float = math.inf
    is_open: bool = False

    @property
    def said(self) -> str:
        """The allowed values in words."""
        return f"a number {self._range}".strip()

    @property
    def _range(self) -> str:
        low = f"{'above' if self.is_open else 'from'} {self.low:g}" if self.low > -math.inf else ""
        high = f"up to {self.high:g}" if self.high < math.inf else ""
        return f"{low} {high}".strip()

    def read(self, value: object) -> float:
        """Return the value in its plainest form; see ``Kind``."""
        number = _real_number(value)
        if number is None:
            raise Misfit(value, self.said)
        if not math.isfinite(number):
            raise Misfit(value, self.said, "should be finite")
        if not self.low <= number <= self.high or (self.is_open and number == self.low):
            raise Misfit(number, self.said, f"should be {self._range}")
        return number


@dataclass(frozen=True)
class Switch:
    """``True`` or ``False``, Python's, NumPy's or a 0-d tensor's; no number."""

    said: str = "True or False"

    def read(self, value: object) -> bool:
        """Return the value in its plainest form; see ``Kind``."""
        if isinstance(value, Tensor) and value.ndim == 0 and value.dtype == torch.bool:
            return bool(value)
        if not isinstance(value, (bool, np.bool_)):
            raise Misfit(value, self.said)
        return bool(value)


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[object, ...]

    @property
    def said(self) -> str:
        """The allowed values in words."""
        return f"one of {list(self.values)}"

    def read(self, value: object) -> object:
        """Return the value in its plainest form; see ``Kind``."""
        for choice in self.values:
            # by type first: arrays compare element by element
            if value is choice or (isinstance(value, type(choice)) and value == choice):
                return choice
        raise Misfit(value, self.said, f"is unknown; choose one of {list(self.values)}")


@dataclass(frozen=True)
class Key:
    """A name in a table of rules, which stands above this wing and is told by its address.

    Attributes:
        table: Address of a mapping, such as ``"captum_kmex.composite.weighting:WEIGHTINGS"``.
    """

    table: str

    @property
    def said(self) -> str:
        """The allowed values in words."""
        return self._choice.said

    @property
    def _choice(self) -> Choice:
        module, _, name = self.table.partition(":")
        return Choice(tuple(getattr(import_module(module), name)))

    def read(self, value: object) -> object:
        """Return the value in its plainest form; see ``Kind``."""
        return self._choice.read(value)


@dataclass(frozen=True)
class Text:
    """A string."""

    said: str = "a string"

    def read(self, value: object) -> str:
        """Return the value in its plainest form; see ``Kind``."""
        if not isinstance(value, str):
            raise Misfit(value, self.said)
        return str(value)


@dataclass(frozen=True)
class OneOf:
    """A value of any of several kinds."""

    kinds: Sequence[Kind]

    @property
    def said(self) -> str:
        """The allowed values in words."""
        return " or ".join(kind.said for kind in self.kinds)

    def read(self, value: object) -> object:
        """Return the value in its plainest form; see ``Kind``."""
        misfits: list[Misfit] = []
        for kind in self.kinds:
            found = _attempt(kind, value)
            if not isinstance(found, Misfit):
                return found
            misfits.append(found)
        # what came furthest knows best: inside the value, else of the right type
        near = [m for m in misfits if m.place] or [m for m in misfits if m.reason]
        raise near[-1] if near else Misfit(value, self.said)


def _attempt(kind: Kind, value: object) -> object:
    """Return what a kind reads, or its misfit.

    A kept misfit would keep the frames of all callers, and their tensors, until the next
    collection of garbage.
    """
    try:
        return kind.read(value)
    except Misfit as misfit:
        return misfit.with_traceback(None)


def whole_number(value: object) -> int | None:
    """Return a whole number of any library as Python's, and nothing else."""
    if isinstance(value, (Tensor, np.ndarray)):
        return int(value) if value.ndim == 0 and _holds_integers(value) else None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        return None
    return int(value)


def _real_number(value: object) -> float | None:
    """Return a real number of any library as Python's, infinite where it is too large."""
    if isinstance(value, (Tensor, np.ndarray)):
        if value.ndim or not (_holds_integers(value) or _holds_floats(value)):
            return None
        value = value.item()
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _holds_integers(array: Tensor | np.ndarray) -> bool:
    if isinstance(array, np.ndarray):
        return array.dtype.kind in "iu"
    is_plain = not (array.dtype.is_floating_point or array.dtype.is_complex or array.is_meta)
    return is_plain and array.dtype != torch.bool and not array.is_quantized


def _holds_floats(array: Tensor | np.ndarray) -> bool:
    if isinstance(array, np.ndarray):
        return array.dtype.kind == "f"
    return array.dtype.is_floating_point and not array.is_meta
