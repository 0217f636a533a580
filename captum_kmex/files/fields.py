"""Values of JSON headers, each of the type and in the range that it must have."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

__all__ = ["Fields", "is_integer", "is_number", "parsed_header"]

_MOST_VALUES = 2**20  # a bank of 100,000 classes has fewer
_SHOWN = 60  # letters of a wrong value
_BIGGEST = 2**63 - 1
_SHA256 = re.compile("[0-9a-f]{64}")


def parsed_header(text: str) -> dict[str, object]:
    """Return what a JSON text holds, but for what our own files never do.

    Raises:
        ValueError: No JSON object; a name that stands twice, NaN or infinity; too many values
            or too deep, which would cost far more memory than the text.
    """
    if sum(map(text.count, ",[{")) > _MOST_VALUES:
        raise ValueError(f"more than {_MOST_VALUES} values")
    try:
        header = json.loads(
            text, object_pairs_hook=_distinct, parse_constant=_finite, parse_float=_finite
        )
    except RecursionError as error:
        raise ValueError("brackets in brackets without end") from error
    if not isinstance(header, dict):
        raise ValueError(f"{type(header).__name__} instead of an object")
    return header


def _distinct(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in values if names.count(name) > 1)
        raise ValueError(f"{twice[:_SHOWN]!r} stands twice")
    return values


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:_SHOWN]} is no finite number")
    return number


class Fields:
    """The fields of a JSON object.

    Args:
        values: The object.
        where: Its name, for messages.

    Raises:
        ValueError: It is no object.
    """

    def __init__(self, values: object, where: str = "") -> None:
        self._prefix = f"{where}." if where else ""
        if not isinstance(values, dict):
            raise ValueError(f"{where} is {_shown(values)}, not an object")
        self._values: Mapping[str, object] = values

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def only(self, *names: str) -> None:
        """Raise ``ValueError`` for a field that is none of these."""
        unknown = sorted(self._values.keys() - set(names))
        if unknown:
            raise ValueError(f"{self._prefix}{unknown[0][:_SHOWN]!r} is no known field")

    def get(self, name: str) -> object:
        """Return a field as it is.

        Raises:
            ValueError: There is none, as in all other methods.
        """
        if name not in self._values:
            raise ValueError(f"lacks {self._prefix + name!r}")
        return self._values[name]

    def part(self, name: str) -> Fields:
        """Return an object."""
        return Fields(self.get(name), self._prefix + name)

    def mapping(self, name: str) -> dict[str, object]:
        """Return an object as a dictionary."""
        return dict(self.part(name)._values)

    def text(self, name: str, among: Sequence[str] | None = None) -> str:
        """Return a text, one of several if these are given."""
        value = self.get(name)
        if not isinstance(value, str):
            raise self._wrong(name, "a text")
        if among is not None and value not in among:
            raise self._wrong(name, f"one of {list(among)}")
        return value

    def digest(self, name: str) -> str:
        """Return a SHA-256 in hexadecimal digits."""
        value = self.text(name)
        if not _SHA256.fullmatch(value):
            raise self._wrong(name, "a SHA-256")
        return value

    def flag(self, name: str) -> bool:
        """Return true or false."""
        value = self.get(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def integer(self, name: str, least: int = 0, most: int = _BIGGEST) -> int:
        """Return an integer in a range, ends included."""
        value = self.get(name)
        if not is_integer(value, least, most):
            raise self._wrong(name, f"an integer from {least} to {most}")
        return value

    def number(self, name: str) -> float:
        """Return a finite number."""
        value = self.get(name)
        if not is_number(value):
            raise self._wrong(name, "a finite number")
        return float(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """Return distinct texts."""
        values: tuple[str, ...] = self._each(name, lambda value: isinstance(value, str), "texts")
        if len(set(values)) < len(values):
            raise self._wrong(name, "distinct texts")
        return values

    def numbers(self, name: str, above: float = -math.inf) -> tuple[float, ...]:
        """Return finite numbers above a limit."""
        what = "finite numbers" + (f" above {above:g}" if math.isfinite(above) else "")
        values = self._each(name, lambda value: is_number(value) and float(value) > above, what)
        return tuple(float(value) for value in values)

    def integers(self, name: str, least: int = 0) -> tuple[int, ...]:
        """Return integers from a limit on."""
        values: tuple[int, ...] = self._each(
            name, lambda value: is_integer(value, least), "integers"
        )
        return values

    def _each(self, name: str, is_right: Callable[[object], object], what: str) -> tuple[Any, ...]:
        values = self.get(name)
        if not isinstance(values, list) or not all(map(is_right, values)):
            raise self._wrong(name, f"a list of {what}")
        return tuple(values)

    def _wrong(self, name: str, what: str) -> ValueError:
        return ValueError(f"{self._prefix}{name} is {_shown(self.get(name))}, not {what}")


def is_integer(value: object, least: int = 0, most: int = _BIGGEST) -> TypeGuard[int]:
    """Whether a value is an integer in a range, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number that a float holds, and no truth value."""
    if isinstance(value, float):
        return math.isfinite(value)
    return is_integer(value, -_BIGGEST)


def _shown(value: object) -> str:
    # of a long list or a number of a million digits, the text alone would be costly
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) > _BIGGEST:
        return "a huge integer"
    return repr(value[:_SHOWN]) if isinstance(value, str) else repr(value)
