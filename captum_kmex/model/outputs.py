"""The logits in what a model returns: a tensor, or a part of an object, a dictionary or a tuple."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from captum_kmex.text.descriptions import described

__all__ = ["as_logits", "has_logits"]

_NAME = "logits"  # under which models of Hugging Face return them


def as_logits(output: object, images: Tensor) -> Tensor:
    """Return the logits (N, J) in a model's output, as they are.

    Of an object or a dictionary they are its ``logits``; else the one tensor, of a dictionary,
    tuple or list, that may be logits. One number an image is a single logit.

    Args:
        output: What the model returned.
        images: The batch (N, C, H, W).

    Raises:
        ValueError: There are none.
    """
    found = _tables(output, len(images))
    if len(found) != 1:  # which of several they are is the user's to say
        raise ValueError(
            f"the model must return logits (N, J) for {len(images)} images; got {_said(output)}. "
            "Wrap it in a module that returns the logits"
        )
    return found[0]


def has_logits(output: object, images: Tensor) -> bool:
    """Whether a model's output holds logits (N, J)."""
    return len(_tables(output, len(images))) == 1


def _tables(output: object, count: int) -> list[Tensor]:
    """Return what in an output may be the logits (N, J)."""
    named = output.get(_NAME) if isinstance(output, Mapping) else getattr(output, _NAME, None)
    held: Iterable[object] = [output]
    if isinstance(named, Tensor):
        held = [named]
    elif isinstance(output, Mapping):
        held = output.values()
    elif isinstance(output, (tuple, list)):
        held = output
    found = (_table(part, count) for part in held if isinstance(part, Tensor))
    return [table for table in found if table is not None]


def _table(part: Tensor, count: int) -> Tensor | None:
    """Return a tensor as logits (N, J), if it may be that."""
    if not part.is_floating_point():
        return None
    if part.ndim < 2 and part.numel() == count:
        return part.reshape(-1, 1)  # one logit, squeezed
    return part if part.ndim == 2 and len(part) == count else None


def _said(output: object) -> str:
    if not isinstance(output, Tensor):
        return described(output)
    dtype = "" if output.is_floating_point() else f" of {output.dtype}"
    return f"{tuple(output.shape)}{dtype}"
