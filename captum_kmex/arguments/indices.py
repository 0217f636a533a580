"""Positions whose range depends on what they point into: a depth, an image of a batch."""

from __future__ import annotations

from collections.abc import Sequence, Sized

from captum_kmex.arguments.kinds import whole_number
from captum_kmex.arguments.misfits import described, shortened

__all__ = ["check_count", "resolve_depth", "resolve_index"]


def resolve_depth(depth: object, names: Sequence[str], count: int | None = None) -> int:
    """Return the position of the shallowest layer of a depth.

    Args:
        depth: Name of the layer, or its position; a negative one counts from the deepest.
        names: Names of the layers, shallow to deep.
        count: Number of depths, where it is not that of the names.

    Raises:
        ValueError: No such layer.
    """
    count = len(names) if count is None else count
    if isinstance(depth, str) and depth in names:
        return names.index(depth)
    position = whole_number(depth)
    if position is not None and -count <= position < count:
        return position % count
    raise ValueError(
        f"depth={shortened(depth)} is not one of the {count} layers {list(names)}; pass a name "
        "or a position"
    )


def resolve_index(name: str, index: object, count: int, what: str = "images") -> int:
    """Return the position of one of ``count`` things; a negative one counts from the end.

    Raises:
        TypeError: Not a whole number.
        ValueError: Out of range.
    """
    position = whole_number(index)
    if position is None:
        raise TypeError(f"{name} should be a whole number; got {described(index)}")
    if not -count <= position < count:
        raise ValueError(
            f"{name}={shortened(position)} is out of range for {count} {what}; choose 0 to "
            f"{count - 1}, or a negative number that counts from the end"
        )
    return position % count


def check_count(name: str, values: Sized, count: int, what: str) -> None:
    """Raise ``ValueError`` unless there are as many values as things they are for."""
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} entries for {count} {what}; pass one of each")
