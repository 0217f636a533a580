"""Captum's forms of a target, brought to one class index an image."""

from __future__ import annotations

import numbers

import numpy as np
import torch
from torch import Tensor

from captum_kmex.exceptions import TargetError

__all__ = ["Target", "resolve_target"]

Target = int | Tensor | list[int] | tuple[int, ...] | None


def resolve_target(target: Target, logits: Tensor, name: str = "target") -> Tensor:
    """Return the class index of each image (N,), on the logits' device.

    Args:
        target: An integer (negative counts from the end), a 0-d or 1-D integer tensor, a list
            of integers, NumPy integers; ``None`` is the model's argmax.
        logits: Float tensor (N, J).
        name: Name of the argument, for the message.

    Raises:
        TargetError: Not integers, not one for each image, or out of range. It is both an
            ``AssertionError`` and a ``ValueError``.
    """
    count, n_classes = logits.shape
    if target is None:
        return logits.argmax(1)
    given = _as_tensor(target, name)
    if given.numel() == 1:
        given = given.reshape(1).expand(count)
    if given.shape != (count,):
        raise TargetError(
            f"{name} must be one class or one for each of {count} images; got shape "
            f"{tuple(given.shape)}"
        )
    given = given.to(logits.device, torch.int64)
    outside = given[(given < -n_classes) | (given >= n_classes)]
    if len(outside):
        raise TargetError(
            f"{name} {int(outside[0])} is out of range for {n_classes} logits; choose 0 to "
            f"{n_classes - 1}, or a negative number that counts from the end"
        )
    return given % n_classes


def _as_tensor(target: object, name: str) -> Tensor:
    if isinstance(target, (list, tuple, np.ndarray, np.generic)):
        array = np.asarray([int(t) if _is_integer(t) else t for t in np.atleast_1d(target)])
        target = torch.from_numpy(array) if array.dtype.kind in "iu" else array
    elif _is_integer(target):
        target = torch.tensor(target)
    if not isinstance(target, Tensor) or target.is_floating_point() or target.dtype == torch.bool:
        raise TargetError(
            f"{name} must be an integer, a list of integers or an integer tensor; got "
            f"{target if isinstance(target, str) else type(target).__name__}"
            f"{f' of {target.dtype}' if isinstance(target, (Tensor, np.ndarray)) else ''}"
        )
    return target


def _is_integer(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0 and not value.is_floating_point() and value.dtype != torch.bool
    return isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))
