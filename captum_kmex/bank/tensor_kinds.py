"""What the tensors of a file must be: type, shape and range, with sizes that must agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["FLOAT", "INTEGER", "TensorKind", "check_tensors", "part", "scoped"]

FLOAT, INTEGER = "a float", "an integer"  # integers are written as int64


@dataclass(frozen=True)
class TensorKind:
    """What a tensor must be.

    Attributes:
        type: ``FLOAT``, of whatever precision, ``INTEGER``, or a dtype.
        shape: A number or a name for each dimension; dimensions of one name agree. A name that
            begins with ``/`` stays the same when kinds are ``scoped``.
        least: Least value.
        most: Greatest value.
        takes_infinity: Infinity is a value too; NaN never is.
        alike: Tensors with the same word here have the same dtype; as in ``shape``.
    """

    type: str | torch.dtype
    shape: tuple[int | str, ...]
    least: float | None = None
    most: float | None = None
    takes_infinity: bool = False
    alike: str = ""


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def scoped(kinds: Mapping[str, TensorKind], scope: object) -> dict[str, TensorKind]:
    """Return what tensors must be that stand under a name, with sizes of their own there."""
    return {
        f"{scope}.{name}": replace(
            kind,
            shape=tuple(
                size if isinstance(size, int) else _scoped(size, scope) for size in kind.shape
            ),
            alike=_scoped(kind.alike, scope),
        )
        for name, kind in kinds.items()
    }


def _scoped(word: str, scope: object) -> str:
    return word if not word or word.startswith("/") else f"{word} {scope}"


def check_tensors(
    tensors: Mapping[str, Tensor], kinds: Mapping[str, TensorKind], sizes: dict[str, object]
) -> None:
    """Compare tensors with what they must be.

    Args:
        tensors: The tensors, by name.
        kinds: What each must be.
        sizes: The dimensions and dtypes known by name; those met first are added.

    Raises:
        ValueError: One is missing, unknown, or not what it must be.
    """
    for name, kind in kinds.items():
        if name not in tensors:
            raise ValueError(f"lacks {name!r}")
        _check(name, tensors[name], kind, sizes)
    unknown = sorted(tensors.keys() - kinds.keys())
    if unknown:
        raise ValueError(f"{unknown[0][:60]!r} is no known tensor")


def _check(name: str, found: Tensor, kind: TensorKind, sizes: dict[str, object]) -> None:
    is_alike = not kind.alike or sizes.setdefault(kind.alike, found.dtype) == found.dtype
    is_type = is_alike and _is_type(found.dtype, kind.type)
    if not is_type or not _fits(tuple(found.shape), kind, sizes):
        wanted = (sizes.get(str(size), str(size).lstrip("/")) for size in kind.shape)
        raise ValueError(
            f"{name} is {found.dtype} of shape {tuple(found.shape)}, not "
            f"{sizes.get(kind.alike, kind.type)} of shape ({', '.join(map(str, wanted))})"
        )
    if not _is_in_range(found, kind):
        raise ValueError(f"{name} holds values out of their range, or NaN")


def _is_type(dtype: torch.dtype, wanted: str | torch.dtype) -> bool:
    if wanted == FLOAT:
        return dtype.is_floating_point
    return dtype == (torch.int64 if wanted == INTEGER else wanted)


def _fits(shape: tuple[int, ...], kind: TensorKind, sizes: dict[str, object]) -> bool:
    if len(shape) != len(kind.shape):
        return False
    return all(
        found == (sizes.setdefault(size, found) if isinstance(size, str) else size)
        for found, size in zip(shape, kind.shape, strict=True)
    )


def _is_in_range(found: Tensor, kind: TensorKind) -> bool:
    if not found.numel():
        return True
    if found.is_floating_point() and not (
        not bool(found.isnan().any()) if kind.takes_infinity else bool(found.isfinite().all())
    ):
        return False
    low, high = found.aminmax()
    return (kind.least is None or bool(low >= kind.least)) and (
        kind.most is None or bool(high <= kind.most)
    )
