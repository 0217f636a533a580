"""Checks of what the user passes that several files make alike."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["Inputs", "check_choice", "check_inputs"]

Inputs = Tensor | tuple[Tensor, ...]


def check_inputs(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return the inputs as a tuple, the images first.

    Raises:
        TypeError: Not tensors.
        ValueError: Not a batch of images (N, C, H, W) of floating-point numbers.
    """
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        kinds = [type(tensor).__name__ for tensor in tensors]
        raise TypeError(f"inputs must be a tensor or a tuple of tensors; got {kinds}")
    images = tensors[0]
    if images.ndim != 4 or not images.numel():
        hint = "; add the batch dimension: x.unsqueeze(0)" if images.ndim == 3 else ""
        raise ValueError(f"inputs must be images (N, C, H, W); got {tuple(images.shape)}{hint}")
    if not images.is_floating_point():
        raise ValueError(
            f"inputs must be floating point, preprocessed as the model expects; got {images.dtype}"
        )
    return tensors


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise ``ValueError`` unless an option has one of its values."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {list(choices)}")
