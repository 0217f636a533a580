"""``Cut``: a place of a model where other features can be put in, and the rest be run again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from captum_kmex.model.activations import layer_name, plain_logits
from captum_kmex.model.hooks import coarser

__all__ = ["Cut"]

_Value = TypeVar("_Value")


@dataclass(frozen=True, eq=False)
class Cut:
    """The pixels of one image, or the output of a layer through which all of it passes.

    Attributes:
        model: The module that is run.
        inputs: One image ``(1, C, *size)``, and further tensors (1, ...) that the model takes.
        args: Further positional arguments.
        layer: Name of the layer; ``None`` for the pixels.
        channels: Dimension of the channels of the layer's output.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    args: tuple[object, ...] = ()
    layer: str | None = None
    channels: int = 1

    @cached_property
    def features(self) -> Tensor:
        """The image's features there ``(1, D, *grid)``; its pixels at the input."""
        if self.layer is None:
            return self.inputs[0].detach()
        return self._read()[0]

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (M, J) that the model gives other features ``(M, D, *grid)``.

        What stands before the layer runs for the one image alone.
        """
        count = len(features)
        if self.layer is None:
            inputs = tuple(_repeated(value, count) for value in self.inputs[1:])
            args = tuple(_repeated(value, count) for value in self.args)
            return plain_logits(self.model, (features, *inputs), args, count)
        native = features.movedim(1, self.channels)
        with self._at_layer(lambda value: native.to(value.dtype)):
            return plain_logits(self.model, self.inputs, self.args, count)

    def check(self) -> None:
        """Raise ``ValueError`` unless all of the image passes this place.

        The features of another picture are put in, and must give its logits.
        """
        if self.layer is None:
            return
        features, wanted = replace(self, inputs=(_other(self.inputs[0]), *self.inputs[1:]))._read()
        try:
            got = self.logits(torch.cat([features, features]))
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(self._refusal("the model fails with other features there")) from error
        close = max(_CLOSE, _ROUNDINGS * torch.finfo(coarser(features.dtype, got.dtype)).eps)
        if float((got - wanted).abs().max()) > close * float(wanted.abs().max().clamp_min(1e-6)):
            raise ValueError(self._refusal("something of the image goes around it"))

    def _read(self) -> tuple[Tensor, Tensor]:
        """Return the features and the logits (1, J) of the image."""
        found: list[Tensor] = []
        # a copy: what follows may work in place
        with self._at_layer(lambda value: found.append(value.clone())):
            logits = plain_logits(self.model, self.inputs, self.args, 1)
        if not found:
            raise ValueError(self._refusal("it does not run"))
        return found[0].movedim(self.channels, 1), logits

    def _refusal(self, why: str) -> str:
        return (
            f"evidence cannot be measured at layer {self.layer!r}: {why}. "
            "Measure at the input, Measured(at='input'), or name another layer"
        )

    @contextmanager
    def _at_layer(self, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """Call something with the layer's output, which it may replace, in this thread's runs."""
        thread = threading.get_ident()

        def hook(_: nn.Module, args: object, output: object) -> Tensor | None:  # noqa: ARG001
            if threading.get_ident() != thread:
                return None
            if not isinstance(output, Tensor) or output.ndim != self.inputs[0].ndim:
                raise ValueError(self._refusal("it returns no map"))
            return change(output)

        name = layer_name(self.model, self.layer or "")
        handle = self.model.get_submodule(name).register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


_CLOSE = 1e-3  # of the largest logit
_ROUNDINGS = 8  # of the coarsest type on the way, that may be more


def _repeated(value: _Value, count: int) -> _Value:
    """Give every removal its image's further inputs; what has no batch stays as it is."""
    if isinstance(value, Tensor) and value.ndim and len(value) == 1:
        return cast("_Value", value.expand(count, *value.shape[1:]))
    return value


def _other(picture: Tensor) -> Tensor:
    """Return another picture of the same range: mirrored, and fading to the farther of its ends.

    So it differs in its mean, and from a picture that is flat or its own mirror image.
    """
    mirrored = picture.detach().flip(tuple(range(2, picture.ndim)))
    low, high = mirrored.aminmax()
    high = torch.where(high > low, high, low + 1)
    end = torch.where(mirrored.mean() < (low + high) / 2, high, low)
    return torch.lerp(mirrored, end, torch.linspace(0.2, 0.8, picture.shape[-1]).to(picture))
