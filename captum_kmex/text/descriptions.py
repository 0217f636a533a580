"""What a value looks like, in words, for messages: its type, shapes, and the names of its parts."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping
from itertools import islice

import numpy as np
from torch import Tensor

__all__ = ["described", "named_parts"]

_SHOWN = 6  # parts of a value that are described
_PLAIN = (str, bytes, bool, int, float, complex, np.generic)


def described(value: object, depth: int = 2) -> str:
    """Return what a value is: ``"dict of 'image': float32 tensor (2, 3, 8, 8), 'label': int 1"``.

    Args:
        value: Anything.
        depth: How far down parts of parts are described.
    """
    if isinstance(value, (Tensor, np.ndarray)):
        kind = "tensor" if isinstance(value, Tensor) else "array"
        return f"{str(value.dtype).removeprefix('torch.')} {kind} {tuple(value.shape)}"
    if isinstance(value, _PLAIN):
        return f"{type(value).__name__} {reprlib.repr(value)}"
    fields = named_parts(value)
    if value is None or depth == 0 or (fields is None and not isinstance(value, (tuple, list))):
        return "None" if value is None else type(value).__name__
    if fields is not None:
        size, shown = len(fields), islice(fields.items(), _SHOWN)
        parts = [f"{key!r}: {described(part, depth - 1)}" for key, part in shown]
    else:
        size, parts = len(value), [described(part, depth - 1) for part in value[:_SHOWN]]  # type: ignore[arg-type,index]
    parts += [f"... ({size} in all)"] if size > _SHOWN else []
    return f"{type(value).__name__} of {', '.join(parts) or 'nothing'}"


def named_parts(value: object) -> dict[object, object] | None:
    """Return the parts of a mapping, a named tuple or a dataclass; ``None`` of anything else."""
    if isinstance(value, Mapping):
        return dict(value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None
