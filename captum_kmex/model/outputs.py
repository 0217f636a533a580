"""The logits in what a model returns: a tensor, or a part of an object, a dictionary or a tuple."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from captum_kmex.text.descriptions import described

__all__ = ["as_logits", "has_logits", "main_output"]

_NAME = "logits"  # under which models of Hugging Face return them
_NAMES = (_NAME, "out")  # and segmentation models of torchvision their map


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
            f"{_remedy(output, len(found))}"
        )
    return found[0]


def has_logits(output: object, images: Tensor) -> bool:
    """Whether a model's output holds logits (N, J)."""
    return len(_tables(output, len(images))) == 1


def main_output(output: object, ndim: int) -> Tensor | None:
    """Return the one tensor that a model's output is, or that is its main part.

    Of an object or a dictionary that is its ``logits`` or ``out``; else the one of so many
    dimensions.

    Args:
        output: What the model returned.
        ndim: Dimensions that a map of outputs is to have.
    """
    if isinstance(output, Tensor):
        return output
    for name in _NAMES:
        named = _named(output, name)
        if isinstance(named, Tensor):
            return named
    parts = output.values() if isinstance(output, Mapping) else output
    held = list(parts) if isinstance(parts, Iterable) else []
    found = [part for part in held if isinstance(part, Tensor) and part.ndim == ndim]
    return found[0] if len(found) == 1 else None


def _named(output: object, name: str) -> object:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _tables(output: object, count: int) -> list[Tensor]:
    """Return what in an output may be the logits (N, J)."""
    named = _named(output, _NAME)
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


def _remedy(output: object, count: int) -> str:
    """Return what to do about an output with so many tables that may be logits."""
    wrap = "Wrap it in a module that returns the logits"
    if count > 1:
        return f"{wrap}, or choose one: output= takes its key, attribute or place"
    main = main_output(output, 4)
    if main is not None and main.ndim > 2 and main.is_floating_point():
        indices = "class, row, column" if main.ndim == 4 else f"{main.ndim - 1} indices"
        return f"{wrap}, or explain a map of outputs at one position: target=({indices})"
    return wrap


def _said(output: object) -> str:
    if not isinstance(output, Tensor):
        return described(output)
    dtype = "" if output.is_floating_point() else f" of {output.dtype}"
    return f"{tuple(output.shape)}{dtype}"
