"""Captum's forms of a target, brought to one class index an image."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from captum_kmex.arguments.misfits import described
from captum_kmex.exceptions import TargetError

__all__ = ["Target", "paired_targets", "resolve_target"]

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

Target = int | tuple[int, ...] | Tensor | list[int] | list[tuple[int, ...]] | None


def resolve_target(target: Target, logits: Tensor, name: str = "target") -> Tensor:
    """Return the class index of each image (N,), on the logits' device.

    Args:
        target: One class: an integer (negative counts from the end), a tuple of one, a tensor of
            one. Or one an image: a list of integers or of tuples of one, an integer tensor (N,).
            NumPy's are taken too. ``None`` is the model's argmax.
        logits: Float tensor (N, J).
        name: Name of the argument, for the message.

    Raises:
        TargetError: Not integers, not one for each image, or out of range; or tuples of
            several, which index outputs of more dimensions. It is both an ``AssertionError``
            and a ``ValueError``.
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
    if len(outside) and n_classes == 1:
        raise TargetError(
            f"{name} {int(outside[0])} is out of range for a single logit: its evidence speaks for "
            "class 1 above 0 and for class 0 below; choose 0, or leave it out"
        )
    if len(outside):
        raise TargetError(
            f"{name} {int(outside[0])} is out of range for {n_classes} logits; choose 0 to "
            f"{n_classes - 1}, or a negative number that counts from the end"
        )
    return given % n_classes


def paired_targets(
    targets: Sequence[Target], contrasts: Sequence[Target] | None
) -> list[tuple[Target, Target]]:
    """Return pairs of a target and what it is contrasted with, in the order of the targets.

    Args:
        targets: At least one target, each in any form that ``resolve_target`` takes.
        contrasts: As many; ``None`` for no contrasts.

    Raises:
        TargetError: Not lists, or not of one length.
    """
    _check_list(targets, "targets")
    if contrasts is None:
        return [(target, None) for target in targets]
    _check_list(contrasts, "contrasts")
    if len(contrasts) != len(targets):
        raise TargetError(
            f"contrasts must be as many as targets, None where there is none; got {len(contrasts)} "
            f"for {len(targets)}"
        )
    return list(zip(targets, contrasts, strict=True))


def _check_list(targets: object, name: str) -> None:
    if not isinstance(targets, (list, tuple)) or not targets:
        raise TargetError(
            f"{name} must be a list of one target or more, such as [281, 285]; got "
            f"{described(targets)}"
        )


def _as_tensor(target: object, name: str) -> Tensor:
    if isinstance(target, np.ndarray) and target.dtype.kind in "iu":
        target = target.tolist() if target.ndim else int(target)  # each is checked for its size
    if not isinstance(target, (Tensor, np.ndarray)):
        values = target if isinstance(target, list) else [target]
        _check_tuples(values, target, name)
        found = _integers([v[0] if isinstance(v, tuple) else v for v in values])
        target = target if found is None else found
    if not isinstance(target, Tensor) or target.dtype not in _INTEGERS or target.is_meta:
        raise TargetError(
            f"{name} must be an integer, a list of integers or an integer tensor; got "
            f"{described(target)}"
        )
    return target


def _check_tuples(values: Sequence[object], target: object, name: str) -> None:
    """Refuse tuples but of one: Captum's have an index for each dimension of the outputs."""
    lengths = [len(value) for value in values if isinstance(value, tuple) and len(value) != 1]
    if lengths:
        raise TargetError(
            f"{name} has {lengths[0]} indices in a tuple, but the logits (N, J) have one dimension "
            "of classes; give one integer, or a list with one for each image; got "
            f"{described(target)}"
        )


def _integers(values: Sequence[object]) -> Tensor | None:
    """Return the values as a tensor, if each is an integer of 64 bits."""
    found = [int(value) for value in values if _is_integer(value)]  # type: ignore[call-overload]
    if len(found) < len(values) or any(abs(value) >= 2**63 for value in found):
        return None
    return torch.tensor(found, dtype=torch.int64)


def _is_integer(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0 and value.dtype in _INTEGERS and not value.is_meta
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
