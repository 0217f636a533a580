"""A model of which one output is looked at: an entry, or one position of a map of outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from captum_kmex.exceptions import TargetError
from captum_kmex.model.outputs import main_output
from captum_kmex.text.descriptions import described, named_parts

__all__ = ["ChosenOutput", "original"]


class ChosenOutput(nn.Module):
    """A model that returns one of its outputs, or of a map of outputs those at one position.

    It has the model's parts, parameters and buffers under the same names, and no weights of its
    own. What other modules or threads do to the model is done to it.

    Args:
        model: The unwrapped model.
        entry: Key, attribute or place of the output; ``None`` for the only or main one.
        position: Of a map of outputs (N, J, H, W) the row and the column that are looked at, or
            as many indices as it has dimensions after the first two.
    """

    def __init__(
        self, model: nn.Module, entry: str | int | None = None, position: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        vars(self)["original"] = model  # no part of it, or every name would get a prefix
        self._modules, self._buffers = model._modules, model._buffers
        self._parameters = model._parameters
        self._non_persistent_buffers_set = model._non_persistent_buffers_set
        self.entry, self.position = entry, position

    @property
    def training(self) -> bool:
        """Whether the model is in training mode."""
        return bool(vars(self)["original"].training)

    @training.setter
    def training(self, mode: bool) -> None:
        if "original" in vars(self):  # torch's constructor sets it before
            vars(self)["original"].training = mode

    def forward(self, *args: object) -> Any:
        """Run the model and return the output, which may be anything if no position is asked for.

        Raises:
            ValueError: It has no such output.
            TargetError: The output has no such position.
        """
        # `_call_impl`: the hooks of the model run, and a compiled graph of it does not
        output = vars(self)["original"]._call_impl(*args)
        if self.entry is not None:
            output = _entry(output, self.entry)
        return _at(output, self.position) if self.position else output

    def is_of(self, model: nn.Module, entry: str | int | None, position: tuple[int, ...]) -> bool:
        """Whether this is what a call asks for."""
        return vars(self)["original"] is model and (self.entry, self.position) == (entry, position)


def original(model: nn.Module) -> nn.Module:
    """Return the model itself, where one output of it was chosen."""
    found: nn.Module = vars(model).get("original", model)
    return found if isinstance(model, ChosenOutput) else model


def _entry(output: object, entry: str | int) -> object:
    """Return an entry of what a model returned."""
    if isinstance(output, Mapping) and entry in output:
        return output[entry]
    if isinstance(entry, str) and hasattr(output, entry):
        return getattr(output, entry)
    is_row = isinstance(output, Sequence) and not isinstance(output, str)
    if is_row and isinstance(entry, int) and -len(output) <= entry < len(output):  # type: ignore[arg-type]
        return output[entry]  # type: ignore[index]
    known = named_parts(output)
    hint = f"; it has {list(known)}" if known else ""
    raise ValueError(f"the model has no output {entry!r}{hint}; it returned {described(output)}")


def _at(output: object, position: tuple[int, ...]) -> Tensor:
    """Return the outputs (N, J) at a position of a map of them."""
    found = main_output(output, 2 + len(position))
    given = 1 + len(position)
    if found is None or found.ndim < 2:
        raise TargetError(
            f"target has {given} indices in a tuple, but the model returned {described(output)}"
        )
    if found.ndim == 2:
        raise TargetError(
            f"target has {given} indices in a tuple, but the logits (N, J) have one dimension of "
            "classes; give one integer, or a list with one for each image"
        )
    if found.ndim != 2 + len(position):
        raise TargetError(
            f"target has {given} indices in a tuple, but outputs {tuple(found.shape)} need "
            f"{found.ndim - 1}, the class first"
        )
    for place, size in zip(position, found.shape[2:], strict=True):
        if not -size <= place < size:
            raise TargetError(
                f"target (class, {', '.join(map(str, position))}) is outside the outputs "
                f"(N, {', '.join(map(str, found.shape[1:]))})"
            )
    whole = slice(None)
    at: tuple[slice | int, ...] = (whole, whole, *position)
    return found[at]
