"""Where the parts of a batch's images are removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from captum_kmex.model.activations import layer_name, trace
from captum_kmex.model.cut import Cut
from captum_kmex.model.reading import Reading, Source

__all__ = ["cuts"]

_SMALL = 64  # sides up to which parts are removed in the pixels
_CELLS = 100  # fewest of a layer's grid, of which some twenty parts are made


def cuts(
    source: Source,
    inputs: tuple[Tensor, ...],
    args: tuple[object, ...],
    reading: Reading,
    places: Sequence[str] | None,
    layers: Sequence[str],
) -> Callable[[int], list[Cut]]:
    """Return what gives the places where parts of an image are removed.

    Args:
        source: The model.
        inputs: The images (N, C, H, W), and further tensors that it takes.
        args: Further positional arguments.
        reading: The forward pass that was explained.
        places: ``"input"``, or names of layers; ``None``: the pixels if they are few, else the
            deepest of ``layers`` whose grid is not too coarse for parts.
        layers: The explained layers, shallow to deep.

    Raises:
        ValueError: Something of the images goes around a layer.
    """
    if places is None:
        is_small = max(inputs[0].shape[2:]) <= _SMALL
        places = ["input" if is_small else _fine_layer(reading, layers)]
    names = [None if place == "input" else layer_name(source.model, place) for place in places]
    model = source.running([name for name in names if name is not None])
    axes = [1 if name is None else _axis(source, inputs, args, reading, name) for name in names]

    def of_image(i: int) -> list[Cut]:
        count = len(inputs[0])
        own = tuple(value[i : i + 1] if len(value) == count else value for value in inputs)
        others = tuple(_of_image(value, i, count) for value in args)
        pairs = zip(names, axes, strict=True)
        return [Cut(model, own, others, name, axis) for name, axis in pairs]

    for cut in of_image(0):
        cut.check()
    return of_image


def _fine_layer(reading: Reading, layers: Sequence[str]) -> str:
    """Return where parts are removed; at the input if the layers have tokens in place of maps."""
    maps = [name for name in layers if isinstance(reading.axes.get(name, 1), int)]
    fine = [name for name in maps if reading.features[name][0, 0].numel() >= _CELLS]
    return fine[-1] if fine else maps[0] if maps else "input"


def _axis(
    source: Source,
    inputs: tuple[Tensor, ...],
    args: tuple[object, ...],
    reading: Reading,
    layer: str,
) -> int:
    """Return the dimension of a layer's channels."""
    axis = reading.axes.get(layer, source.axis)
    if axis is None:
        axis = trace(source.model, inputs, [layer], additional_forward_args=args).axes[layer]
    return axis if isinstance(axis, int) else 1  # tokens are no map, and refused as such


def _of_image(value: object, image: int, count: int) -> object:
    """Return what belongs to an image; what is no batch belongs to all."""
    if isinstance(value, Tensor) and value.ndim and len(value) == count:
        return value[image : image + 1]
    return value
