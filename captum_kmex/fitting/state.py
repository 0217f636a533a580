"""What a pass of a fit collects, declared once: saving, checking and joining machines follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

import torch
from torch import Tensor

from captum_kmex.bank.tensor_kinds import INTEGER, TensorKind, check_tensors, part, scoped
from captum_kmex.distributed import add_up, gather, gather_to, rank, together, world_size

__all__ = [
    "Join",
    "State",
    "added",
    "alike",
    "beside",
    "from_all",
    "from_owners",
    "greatest",
    "is_own",
    "least",
    "sent_to_owner",
]

_T = TypeVar("_T")
Value = Tensor | int | float | tuple[int, ...] | tuple[float, ...]
Join = Callable[[Sequence[Tensor]], Tensor]  # of what each machine has, in the order of ranks


def added(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum; zeros of one number, of a machine that saw nothing, fit any shape."""
    return reduce(torch.add, parts)


def least(parts: Sequence[Tensor]) -> Tensor:
    """Return the least of each entry."""
    return reduce(torch.minimum, parts)


def greatest(parts: Sequence[Tensor]) -> Tensor:
    """Return the greatest of each entry."""
    return reduce(torch.maximum, parts)


def beside(parts: Sequence[Tensor]) -> Tensor:
    """Return all columns, one machine's after the other's."""
    return torch.cat(list(parts), 1)


def alike(parts: Sequence[Tensor]) -> Tensor:
    """Return what all have; zeros or nothing, of a machine that saw no image, do not count.

    Raises:
        ValueError: Two differ.
    """
    known = [part for part in parts if part.any()]
    if any(not torch.equal(known[0], other) for other in known):
        raise ValueError(
            f"machines differ ({' and '.join(str(part.tolist()) for part in known)}) in what must "
            "be alike to fit together; give all of them the same model and options"
        )
    return known[0] if known else parts[0]


@dataclass(frozen=True)
class _Declared:
    kind: TensorKind
    join: Join


class State:
    """Tensors and numbers that are saved, checked and joined by what they were declared to be.

    Each is an attribute of the object that ``declare`` has made. What is inside of it and has a
    state too, ``parts`` names.
    """

    def __init__(self) -> None:
        self._declared: dict[str, _Declared] = {}

    def declare(self, name: str, value: Value, kind: TensorKind, join: Join) -> None:
        """Make an attribute that is part of the state.

        Args:
            name: Of the attribute.
            value: To begin with. Numbers and tuples of them stay such.
            kind: What a saved one must be.
            join: Makes one of those that several machines have collected.
        """
        setattr(self, name, value)
        self._declared[name] = _Declared(kind, join)

    def parts(self) -> Iterator[tuple[str, State]]:
        """Yield the states inside by name; each may depend on what is restored before it."""
        yield from ()

    def state(self) -> dict[str, Tensor]:
        """Return everything collected so far as tensors, to save and to ``restore``."""
        saved = {name: self._tensor(name) for name in self._declared}
        for scope, inside in self.parts():
            saved |= {f"{scope}.{name}": tensor for name, tensor in inside.state().items()}
        return saved

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take up what was saved."""
        for name in self._declared:
            self._put(name, saved[name])
        for scope, inside in self.parts():
            inside.restore(part(saved, f"{scope}."))

    def kinds(self, saved: Mapping[str, Tensor]) -> dict[str, TensorKind]:
        """Return what the tensors of a saved state must be."""
        kinds = {name: declared.kind for name, declared in self._declared.items()}
        for scope, inside in self.parts():
            kinds |= scoped(inside.kinds(part(saved, f"{scope}.")), scope)
        return kinds

    def check_values(self, saved: Mapping[str, Tensor], prefix: str = "") -> None:
        """Compare the values of a saved state, whose tensors are of the right kinds.

        Args:
            saved: The tensors, by name.
            prefix: What stands before their names in a file, for messages.

        Raises:
            ValueError: Two do not fit together.
        """
        for scope, inside in self.parts():
            inside.check_values(part(saved, f"{scope}."), f"{prefix}{scope}.")

    def check(self, saved: Mapping[str, Tensor], sizes: dict[str, object]) -> None:
        """Compare a saved state with what one of this object can be.

        Args:
            saved: The tensors, by name.
            sizes: Sizes that are known by name; those met first are added.

        Raises:
            ValueError: A tensor is missing, unknown, of another type or shape, or out of range,
                or two do not fit together.
        """
        check_tensors(saved, self.kinds(saved), sizes)
        self.check_values(saved)

    def share(self) -> None:
        """Join what all machines have collected; all of them must call this."""
        if world_size() == 1:
            return
        for name, declared in self._declared.items():
            self._put(name, from_all(self._tensor(name), declared.join))
        for _, inside in self.parts():
            inside.share()

    def _tensor(self, name: str) -> Tensor:
        value, wanted = getattr(self, name), self._declared[name].kind.type
        if isinstance(value, Tensor):
            return value
        return torch.tensor(value, dtype=torch.int64 if wanted == INTEGER else torch.float64)

    def _put(self, name: str, tensor: Tensor) -> None:
        value = getattr(self, name)
        if isinstance(value, Tensor):
            setattr(self, name, tensor.to(value))
        else:
            found = tensor.tolist()
            setattr(self, name, tuple(found) if isinstance(found, list) else found)


def from_all(own: Tensor, join: Join) -> Tensor:
    """Return what all machines have, joined, the same on all of them."""
    if world_size() == 1:
        return own
    if join is added:  # without one machine's holding what each of them has
        shape = torch.broadcast_shapes(*gather(tuple(own.shape)))
        return add_up(own.expand(shape))
    return join(gather(own.cpu())).to(own.device)


def is_own(c: int) -> bool:
    """Whether this machine has the rows of a class: those of class c are on machine c mod W."""
    return c % world_size() == rank()


def sent_to_owner(c: int, value: _T) -> list[_T]:
    """Return what all machines have of a class on the one that owns it, nothing on the others."""
    return gather_to(c % world_size(), value)


def from_owners(pairs: Iterable[tuple[int, _T]]) -> dict[int, _T]:
    """Return what all machines find of their own classes; a failure of one stops all.

    Args:
        pairs: Classes of this machine, and what is found of each.

    Raises:
        RuntimeError: Another machine failed.
    """
    with together():
        mine = dict(pairs)
    return {c: found for theirs in gather(mine) for c, found in theirs.items()}
