"""``Cut``: a place of a model where other features can be put in, and the rest be run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from captum_kmex.model.activations import layer_name, logits_of, output_of

__all__ = ["Cut"]


@dataclass(frozen=True, eq=False)
class Cut:
    """The pixels of one image, or the output of a layer through which all of it passes.

    Attributes:
        model: The module that is run.
        inputs: One image (1, C, *size), and further tensors (1, ...) that the model takes.
        args: Further positional arguments.
        layer: Name of the layer; ``None`` for the pixels.
        channels: Dimension of the channels of the layer's output.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    args: tuple[object, ...] = ()
    layer: str | None = None
    channels: int = field(default=1)

    @cached_property
    def features(self) -> Tensor:
        """The image's features there (1, D, *grid); its pixels at the input."""
        if self.layer is None:
            return self.inputs[0]
        found: list[Tensor] = []
        with self._at_layer(lambda value: found.append(value)):
            output_of(self.model, (*self.inputs, *self.args))
        return found[0].movedim(self.channels, 1)

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (M, J) that the model gives other features (M, D, *grid).

        What stands before the layer runs for the one image alone.
        """
        count = len(features)
        if self.layer is None:
            others = (_repeated(value, count) for value in (*self.inputs[1:], *self.args))
            return logits_of(output_of(self.model, (features, *others)), count)
        native = features.movedim(1, self.channels)
        with self._at_layer(lambda value: native.to(value.dtype)):
            output = output_of(self.model, (*self.inputs, *self.args))
        return logits_of(output, count)

    def check(self) -> None:
        """Raise ``ValueError`` unless all of the image passes this place.

        The features of another picture are put in, and must give its logits.
        """
        if self.layer is None:
            return
        picture = self.inputs[0]
        other = Cut(self.model, (_other(picture), *self.inputs[1:]), self.args, self.layer)
        other = Cut(other.model, other.inputs, other.args, self.layer, self.channels)
        try:
            got = self.logits(other.features.expand(2, *other.features.shape[1:]))
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(self._refusal("the model fails with other features there")) from error
        wanted = logits_of(output_of(self.model, (*other.inputs, *self.args)), 1)
        scale = wanted.abs().max().clamp_min(1e-6)
        if float((got - wanted).abs().max() / scale) > _CLOSE:
            raise ValueError(self._refusal("something of the image goes around it"))

    def _refusal(self, why: str) -> str:
        return (
            f"evidence cannot be measured at layer {self.layer!r}: {why}. "
            "Measure at the input, Measured(at='input'), or name another layer"
        )

    @contextmanager
    def _at_layer(self, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """Call something with the layer's output, which it may replace, while the model runs."""
        name = layer_name(self.model, self.layer or "")

        def hook(_: nn.Module, args: object, output: object) -> Tensor | None:  # noqa: ARG001
            if not isinstance(output, Tensor) or output.ndim != self.inputs[0].ndim:
                raise ValueError(self._refusal("it returns no map"))
            return change(output)

        handle = self.model.get_submodule(name).register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


_CLOSE = 1e-3  # of the largest logit


def _repeated(value: object, count: int) -> object:
    """Give every removal its image's further inputs; what has no batch stays as it is."""
    if isinstance(value, Tensor) and value.ndim and len(value) == 1:
        return value.expand(count, *value.shape[1:])
    return value


def _other(picture: Tensor) -> Tensor:
    """Return another picture of the same range: mirrored in all dimensions, and paler."""
    mirrored = picture.flip(tuple(range(2, picture.ndim)))
    return torch.lerp(mirrored.mean().expand_as(mirrored), mirrored, 0.5)
