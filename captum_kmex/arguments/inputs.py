"""Checks of what the user passes that several files make alike."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from torch import Tensor, nn

from captum_kmex.arguments import Option
from captum_kmex.arguments.kinds import Choice
from captum_kmex.grids import FRONT_END, KINDS

__all__ = ["Inputs", "check_choice", "check_forward_args", "check_inputs", "convolved_sides"]

Inputs = Tensor | tuple[Tensor, ...]
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def check_inputs(inputs: Inputs, model: nn.Module | None = None) -> tuple[Tensor, ...]:
    """Return the inputs as a tuple, the images first.

    Args:
        inputs: Images (N, C, H, W), signals (N, C, T) or volumes (N, C, D, H, W), alone or first.
        model: What they are for, whose convolutions may tell of which dimension they should be.

    Raises:
        TypeError: Not tensors.
        ValueError: Not a batch of images, signals or volumes of floating-point numbers.
    """
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        kinds = [type(tensor).__name__ for tensor in tensors]
        raise TypeError(f"inputs must be a tensor or a tuple of tensors; got {kinds}")
    images = tensors[0]
    sides = images.ndim - 2
    wanted = convolved_sides(model)
    if sides not in KINDS or not images.numel() or not _takes(wanted, sides):
        said = KINDS[wanted[0]] if len(wanted) == 1 else ", ".join(KINDS[k] for k in (2, 1, 3))
        hint = "; add the batch dimension: x.unsqueeze(0)" if sides + 1 in wanted[:1] else ""
        if wanted[:1] == [2] and sides < 2:
            hint += f". Or if these are signals: {FRONT_END}"
        raise ValueError(f"inputs must be {said}; got {tuple(images.shape)}{hint}")
    if images.is_meta:
        raise ValueError(
            "inputs are on the meta device, which holds no values; move them to another"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"inputs must be floating point, preprocessed as the model expects; got {images.dtype}"
        )
    return tensors


def convolved_sides(model: nn.Module | None) -> list[int]:
    """Return of how many dimensions the convolutions of a model are."""
    parts = () if model is None else model.modules()
    return sorted({len(part.kernel_size) for part in parts if isinstance(part, _CONVOLUTIONS)})


def _takes(convolved: list[int], sides: int) -> bool:
    """Whether a model may take images of so many sides.

    Some fold a side away: patches of an image become a row of tokens, which are then convolved.
    """
    return not convolved or sides in convolved or (sides == 2 and convolved[0] == 1)


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise ``ValueError`` unless an option has one of its values."""
    Option(Choice(tuple(choices))).read(name, value)


def check_forward_args(
    model: nn.Module, inputs: tuple[Tensor, ...], extra: Sequence[object]
) -> None:
    """Raise ``TypeError`` unless a model's forward takes so many arguments.

    Args:
        model: The unwrapped model.
        inputs: The images, and further tensors of ``inputs``.
        extra: What stands in ``additional_forward_args``.
    """
    if model._forward_pre_hooks:  # they may add or drop arguments
        return
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # not every callable has one
        return
    try:
        signature.bind(*inputs, *extra)
    except TypeError as error:
        name = "additional_forward_args" if extra or len(inputs) == 1 else "inputs"
        raise TypeError(
            f"{name} should fit {type(model).__name__}.forward{signature}; with {len(inputs)} "
            f"inputs and {len(extra)} additional_forward_args: {error}. Pass the others of its "
            "arguments, in a tuple"
        ) from None
