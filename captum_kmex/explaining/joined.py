"""Explanations of some images each, as one of them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from captum_kmex.explaining.result import ExplanationData

__all__ = ["joined"]

_Data = TypeVar("_Data", bound=ExplanationData)
_OF_IMAGES = ("ledger", "enough", "needed")  # tuples with an entry an image


def joined(parts: Sequence[_Data], order: Tensor) -> _Data:
    """Return explanations of different images, made in the same way, as one.

    Where the tail is affine at some positions only, it is linearised: at the others nothing is
    left over.

    Args:
        parts: The explanations.
        order: Place among all of their images, in a row, of each image of the result.
    """
    if any(part.not_linear is not None for part in parts):
        parts = [_linearised(part) for part in parts]
    values: dict[str, Any] = {}
    for field in fields(parts[0]):
        found = [getattr(part, field.name) for part in parts]
        if isinstance(found[0], Tensor):
            values[field.name] = torch.cat(found)[order.to(found[0].device)]
        elif field.name in _OF_IMAGES and found[0] is not None:
            rows = [row for part in found for row in part]
            values[field.name] = tuple(rows[i] for i in order.tolist())
    return replace(parts[0], **values)


def _linearised(part: _Data) -> _Data:
    if part.not_linear is not None:
        return part
    return replace(part, head="linearised", not_linear=torch.zeros_like(part.output))
