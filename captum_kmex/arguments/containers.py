"""Kinds of values that hold others: lists, mappings, data sets, loaders."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence, Set, Sized
from dataclasses import dataclass
from itertools import islice

from torch import Tensor
from torch.utils.data import DataLoader

from captum_kmex.arguments.kinds import Kind
from captum_kmex.arguments.misfits import Misfit, described

__all__ = ["DataSet", "Listed", "Loader", "Mapped", "Names"]

_MOST = 10**6  # entries of a list


@dataclass(frozen=True)
class Listed:
    """A list of values of one kind: a sequence, or a one-dimensional array or tensor.

    Sets are refused, since they have no order, and generators, which can be read only once.

    Attributes:
        kind: Kind of each value.
        least: Fewest values.
        is_distinct: No two may be equal.
        takes_iterators: Generators are read after all.
    """

    kind: Kind
    least: int = 0
    is_distinct: bool = False
    takes_iterators: bool = False

    @property
    def said(self) -> str:
        """The allowed values in words."""
        return f"a list, each {self.kind.said}"

    def read(self, value: object) -> list[object]:
        """Return the value in its plainest form; see ``Kind``."""
        found = _items(value, self.takes_iterators)
        if found is None:
            raise Misfit(value, self.said)
        if not self.least <= len(found) <= _MOST:
            reason = f"should have between {self.least} and {_MOST:,} entries; it has {len(found)}"
            raise Misfit(value, self.said, reason)
        items = [_read_at(f"[{place}]", self.kind, item) for place, item in enumerate(found)]
        if self.is_distinct:
            _check_distinct(items, self.said)
        return items


@dataclass(frozen=True)
class Mapped:
    """A mapping with keys and values of one kind each.

    Attributes:
        keys: Kind of each key.
        values: Kind of each value.
        least: Fewest entries.
    """

    keys: Kind
    values: Kind
    least: int = 1

    @property
    def said(self) -> str:
        """The allowed values in words."""
        return f"a mapping from {self.keys.said} to {self.values.said}"

    def read(self, value: object) -> dict[object, object]:
        """Return the value in its plainest form; see ``Kind``."""
        if not isinstance(value, Mapping):
            raise Misfit(value, self.said)
        if len(value) < self.least:
            raise Misfit(value, self.said, f"should have at least {self.least} entries")
        found = {}
        for given, item in value.items():
            place = f"[{described(given):.40}]"
            key = _read_at(place, self.keys, given)
            found[key] = _read_at(place, self.values, item)
        return found


@dataclass(frozen=True)
class Names:
    """Names in an order: any collection that has one, or a mapping; no single text."""

    takes_mappings: bool = True
    said: str = "a list of names"

    def read(self, value: object) -> object:
        """Return the value in its plainest form; see ``Kind``."""
        is_other = isinstance(value, (str, bytes, bytearray, type, Set, Tensor))
        is_other = is_other or (isinstance(value, Mapping) and not self.takes_mappings)
        if is_other or not isinstance(value, Iterable) or getattr(value, "ndim", 1) != 1:
            raise Misfit(value, self.said)
        return tuple(islice(value, _MOST)) if isinstance(value, Iterator) else value


@dataclass(frozen=True)
class DataSet:
    """What gives an item for each position and knows their number."""

    said: str = "a data set, which has a length and an item at each position"

    def read(self, value: object) -> object:
        """Return the value in its plainest form; see ``Kind``."""
        is_other = isinstance(value, (str, bytes, bytearray, type, Mapping, DataLoader))
        has_items = hasattr(value, "__getitem__") and isinstance(value, Sized)
        is_scalar = getattr(value, "ndim", 1) == 0
        if is_other or is_scalar or not has_items or _length(value) is None:
            raise Misfit(value, self.said)
        return value


@dataclass(frozen=True)
class Loader:
    """A ``DataLoader`` or another iterable of batches."""

    said: str = "a DataLoader or an iterable of batches, such as (images, labels)"

    def read(self, value: object) -> object:
        """Return the value in its plainest form; see ``Kind``."""
        if isinstance(value, (str, bytes, bytearray, Mapping, type)):
            raise Misfit(value, self.said)
        return value  # what it yields is checked batch by batch


def _read_at(place: str, kind: Kind, value: object) -> object:
    """Read a value that stands somewhere in another one."""
    try:
        return kind.read(value)
    except Misfit as misfit:
        raise misfit.at(place) from None


def _items(value: object, takes_iterators: bool) -> Sequence[object] | None:
    """Return the values of a list of any library."""
    if isinstance(value, (str, bytes, bytearray)):
        return None
    if isinstance(value, Sequence):
        return value
    if isinstance(value, type):
        return None
    dims = getattr(value, "ndim", 0)
    if isinstance(value, Tensor) or dims > 1:
        return list(value) if dims else None  # type: ignore[call-overload]
    if dims == 1 and hasattr(value, "tolist"):
        listed: list[object] = value.tolist()
        return listed
    if takes_iterators and isinstance(value, Iterator):
        return list(islice(value, _MOST + 1))
    return None


def _check_distinct(items: Collection[object], allowed: str) -> None:
    kept: list[object] = []
    seen: set[Hashable] = set()
    for item in items:
        if isinstance(item, Hashable) and item in seen:
            raise Misfit([*kept, item], allowed, "should have distinct entries")
        kept.append(item)
        seen.add(item)


def _length(value: object) -> int | None:
    """Return a data set's length; those read by position from a sampler have none."""
    try:
        return len(value)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None
