"""One position a call: of a map of outputs, a target of several indices explains one position.

Captum's targets of outputs (N, J, H, W) are tuples (class, row, column). At one position the
outputs are logits (N, J), of which all else is asked; images with other positions are explained
one position after the other.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from captum_kmex.arguments.kinds import whole_number
from captum_kmex.arguments.misfits import described
from captum_kmex.arguments.targets import paired_targets
from captum_kmex.exceptions import TargetError
from captum_kmex.explaining.joined import joined
from captum_kmex.explaining.result import ExplanationData

__all__ = ["one_position_a_call", "position_of", "positions_of_targets"]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Position = tuple[int, ...]
_positions: ContextVar[Mapping[int, _Position]] = ContextVar(
    "_positions", default=MappingProxyType({})
)
_ASKED = ("target", "contrast")
_ASKED_LISTS = ("targets", "contrasts")


def position_of(attribution: object) -> _Position:
    """Return the position that the present call is about; empty where outputs are logits."""
    return _positions.get().get(id(attribution), ())


def one_position_a_call(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a method with ``inputs`` and ``target`` take targets of several indices."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        given = signature.bind(*args, **kwargs).arguments
        rows = _rows(given["inputs"], {name: given.get(name) for name in _ASKED})
        if rows is None:
            return function(*args, **kwargs)
        return cast("_R", _by_position(function, given, rows))

    return call


def positions_of_targets(function: Callable[_P, list[_R]]) -> Callable[_P, list[_R]]:
    """Let a method with ``inputs``, ``targets`` and ``contrasts`` take such targets.

    Those at the same positions are explained in one call.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> list[_R]:
        given = signature.bind(*args, **kwargs).arguments
        groups = _groups(given)
        if list(groups) == [None]:
            return function(*args, **kwargs)
        found: dict[int, _R] = {}
        for rows, places in groups.items():
            part = {name: _chosen(name, value, places) for name, value in given.items()}
            with _said_at(places):
                some = function(**part) if rows is None else _by_position(function, part, rows)  # type: ignore[call-arg]
            found |= zip(places, some, strict=True)
        return [found[place] for place in range(len(found))]

    return call


def _groups(given: Mapping[str, Any]) -> dict[tuple[_Position, ...] | None, list[int]]:
    """Return the places of targets in their list, by the position of each image.

    Raises:
        TargetError: Targets and contrasts are no lists of one length, or positions are malformed.
    """
    groups: dict[tuple[_Position, ...] | None, list[int]] = {}
    pairs = paired_targets(given["targets"], given.get("contrasts"))
    for place, (target, contrast) in enumerate(pairs):
        names = {f"targets[{place}]": target, f"contrasts[{place}]": contrast}
        rows = _rows(given["inputs"], names)
        groups.setdefault(None if rows is None else tuple(rows), []).append(place)
    return groups


def _chosen(name: str, value: Any, places: Sequence[int]) -> Any:
    """Return an argument for some of the targets."""
    is_asked = name in _ASKED_LISTS and value is not None
    return [value[place] for place in places] if is_asked else value


@contextmanager
def _said_at(places: Sequence[int]) -> Iterator[None]:
    """Say in an error about some of the targets where they stand in their list."""
    try:
        yield
    except TargetError as error:
        text = re.sub(r"(?<=s\[)\d+(?=\])", lambda found: str(places[int(found[0])]), str(error))
        raise TargetError(text) from None


def _by_position(
    function: Callable[..., Any], given: Mapping[str, object], rows: Sequence[_Position]
) -> Any:
    """Explain the images of each position in a call, with classes as the only indices."""
    found = []
    for position in dict.fromkeys(rows):
        these = [i for i, own in enumerate(rows) if own == position]
        part = {name: _part(name, value, these, len(rows)) for name, value in given.items()}
        with _at(given["self"], position), _said_of(given):
            found.append((these, function(**part)))
    return _joined(found)


@contextmanager
def _at(attribution: object, position: _Position) -> Iterator[None]:
    token = _positions.set({**_positions.get(), id(attribution): position})
    try:
        yield
    finally:
        _positions.reset(token)


@contextmanager
def _said_of(given: Mapping[str, object]) -> Iterator[None]:
    """Say in an error about positions which argument has them, and what was given."""
    try:
        yield
    except TargetError as error:
        name, asked = next(_with_positions(given))
        text = re.sub(r"^target\b", name, str(error))
        hint = "" if "got" in text else f"; got {described(asked)}"
        raise TargetError(f"{text}{hint}") from None


def _with_positions(given: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield what has positions, by the name that messages call it."""
    for name in (*_ASKED, *_ASKED_LISTS):
        value: Any = given.get(name)
        is_several = name in _ASKED_LISTS and value is not None
        items = enumerate(value) if is_several else [(0, value)]
        for place, item in items:
            if any(map(_has_position, item if isinstance(item, list) else [item])):
                yield f"{name}[{place}]" if is_several else name, item


def _rows(inputs: object, asked: Mapping[str, object]) -> list[_Position] | None:
    """Return the position of each image, if targets have more than one index.

    Args:
        inputs: As the user gave them.
        asked: A target and its contrast, by the names that messages call them.
    """
    images = _images(inputs)
    if images is None:
        return None
    target, contrast = (_positions_in(given, len(images), name) for name, given in asked.items())
    if target is not None and contrast is not None and target != contrast:
        raise TargetError(
            "contrast compares two classes at one position; leave its position out, or give that "
            "of target"
        )
    return contrast if target is None else target


def _images(inputs: object) -> Tensor | None:
    """Return the images among the inputs, if they are such."""
    images = inputs[0] if isinstance(inputs, tuple) and inputs else inputs
    return images if isinstance(images, Tensor) and images.ndim else None


def _positions_in(target: object, count: int, name: str) -> list[_Position] | None:
    """Return what stands after the classes of a target, if something does."""
    values: list[Any] = target if isinstance(target, list) else [target]
    if not values or not all(_has_position(value) for value in values):
        return None  # whatever is wrong with it, is said where classes are read
    if len(values) not in (1, count):
        raise TargetError(
            f"{name} must be one tuple or one for each of {count} images; got {len(values)}"
        )
    found = [tuple(int(index) for index in value[1:]) for value in values]
    return found * count if len(found) == 1 else found


def _has_position(value: object) -> bool:
    is_tuple = isinstance(value, tuple) and len(value) > 1
    return is_tuple and all(whole_number(index) is not None for index in value)  # type: ignore[attr-defined]


def _part(name: str, value: object, rows: Sequence[int], count: int) -> object:
    """Return what an argument is for some of the images, with classes as the only indices."""
    if name in _ASKED_LISTS and value is not None:
        return [_part(_ASKED[0], item, rows, count) for item in value]  # type: ignore[attr-defined]
    if name in _ASKED and isinstance(value, tuple):
        return value[0]
    if name in _ASKED and isinstance(value, list):
        values = value if len(value) == count else value * count
        return [values[i][0] if isinstance(values[i], tuple) else values[i] for i in rows]
    if isinstance(value, tuple):
        return tuple(_part("", item, rows, count) for item in value)
    is_batch = isinstance(value, (Tensor, np.ndarray)) and value.ndim > 0 and len(value) == count
    return value[list(rows)] if is_batch and len(rows) < count else value  # type: ignore[index]


def _joined(found: Sequence[tuple[list[int], Any]]) -> Any:
    """Return the results of some images each, as one of all, in their order."""
    if len(found) == 1:
        return found[0][1]
    order = torch.tensor([i for rows, _ in found for i in rows]).argsort()
    results = [result for _, result in found]
    if isinstance(results[0], list):
        places = [rows for rows, _ in found]
        return [
            _joined(list(zip(places, of_target, strict=True)))
            for of_target in zip(*results, strict=True)
        ]
    if isinstance(results[0], ExplanationData):
        return joined(results, order)
    if isinstance(results[0], tuple):
        return tuple(_stacked(parts, order) for parts in zip(*results, strict=True))
    return _stacked(results, order)


def _stacked(parts: Sequence[Tensor], order: Tensor) -> Tensor:
    return torch.cat(list(parts))[order.to(parts[0].device)]
