"""Names of classes, in whichever of the usual forms they are given."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import SupportsIndex, TypeAlias, cast

import numpy as np

__all__ = ["ClassNames", "class_name", "read_class_names"]

ClassNames: TypeAlias = Iterable[object]


def read_class_names(given: ClassNames, n_classes: int | None = None) -> tuple[str, ...]:
    """Return a name for each class, in the order of the logits.

    Args:
        given: A list, tuple or array of names; a mapping from numbers to names, such as
            ``id2label``, whose numbers may be text; one from names to numbers, such as
            ``class_to_idx``; a pandas Series of either kind.
        n_classes: How many there must be, if that is known.

    Raises:
        TypeError: None of these, such as a single text or a set, which has no order.
        ValueError: Numbers are missing or there twice, or there are more or fewer than classes.

    Example:
        >>> read_class_names({"cat": 0, "dog": 1})
        ('cat', 'dog')
        >>> read_class_names({"0": "cat", "1": "dog"})
        ('cat', 'dog')
    """
    if isinstance(given, (str, bytes, set, frozenset)) or not isinstance(given, Iterable):
        raise TypeError(
            f"class_names is a {type(given).__name__}; pass a list with a name a logit, in the "
            "order of the model's outputs, or a mapping from numbers to names"
        )
    pairs = _pairs(given)
    names = tuple(map(_text, given)) if pairs is None else _ordered(pairs)
    if n_classes is not None and len(names) != n_classes:
        raise ValueError(
            f"class_names has {len(names)} names for {n_classes} classes; pass one a class, in the "
            "order of the model's outputs, and two for a single logit, the negative one first"
        )
    return names


def class_name(c: int, names: ClassNames | None, prefix: str = "class ") -> str:
    """Return a class's name, or its number after a prefix.

    Raises:
        ValueError: There is no such name.
    """
    if names is None:
        return f"{prefix}{c}"
    known = names if type(names) is tuple else read_class_names(names)
    if not 0 <= c < len(known):
        raise ValueError(
            f"class_names has {len(known)} names, none for class {c}; pass one a logit, in the "
            "order of the model's outputs"
        )
    return _text(known[c])


def _pairs(given: ClassNames) -> list[tuple[object, object]] | None:
    """Return keys and values of a mapping or Series; ``None`` of plain names."""
    if isinstance(given, np.ndarray):
        if given.ndim != 1:
            raise ValueError(
                f"class_names is an array of shape {given.shape}; pass one name a logit, (J,)"
            )
        return None
    if isinstance(given, Mapping):
        return list(given.items())
    items = getattr(given, "items", None)  # a Series: its index numbers its values
    return list(cast("Iterable[tuple[object, object]]", items())) if callable(items) else None


def _ordered(pairs: list[tuple[object, object]]) -> tuple[str, ...]:
    """Return the names of pairs of a number and a name, either way round, by their numbers."""
    by_key = [(_number(key), value) for key, value in pairs]
    by_value = [(_number(value), key) for key, value in pairs]
    are_values_integers = all(_is_integer(value) for _, value in pairs)
    are_keys_integers = all(_is_integer(key) for key, _ in pairs)
    turned = by_value if are_values_integers and not are_keys_integers else by_key
    if any(number is None for number, _ in turned):
        turned = by_value
    numbers = [number for number, _ in turned]
    if None in numbers or sorted(cast("list[int]", numbers)) != list(range(len(pairs))):
        shown = [key if turned is by_key else value for key, value in pairs]
        raise ValueError(
            f"class_names must number its names from 0 to {len(pairs) - 1}, each once; got "
            f"{shown[:5]}. Pass a list in the order of the model's outputs"
        )
    named = dict(cast("list[tuple[int, object]]", turned))
    return tuple(_text(named[c]) for c in range(len(named)))


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _number(value: object) -> int | None:
    """Return a class number, which JSON writes as text; ``None`` if it is none."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() else None
    try:
        return operator.index(cast("SupportsIndex", value))
    except TypeError:
        return None


def _text(name: object) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
