"""Which layers of an unknown CNN to explain: the last module on each of its last grids."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from captum_kmex.arguments import checked
from captum_kmex.arguments.inputs import check_inputs
from captum_kmex.grids import FRONT_END, grid_of, grid_text
from captum_kmex.model.activations import trace
from captum_kmex.model.calls import Call, Record
from captum_kmex.model.opaque import plain_model
from captum_kmex.model.tail_probe import Inputs, one_image, repeated

__all__ = ["LayerCandidate", "candidate_layers", "suggest_layers"]

_ALL_CALLS = 2**20  # more than any model makes
_COPIES = 2  # of the example, to tell what belongs to an image from what does not
# what they leave is no finer than the tap
_POOLS = (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)

Grid = tuple[int, ...]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class LayerCandidate:
    """A module whose output could be one of ``LayerKMeansAttribution``'s layers.

    Attributes:
        name: Its name in the model.
        kind: Its class.
        width: Channels D of its output.
        grid: Size of its output's grid, in cells: of images height and width.
        is_suggested: Whether ``suggest_layers`` takes it.
    """

    name: str
    kind: str
    width: int
    grid: Grid
    is_suggested: bool = False


@checked
def suggest_layers(model: nn.Module, example: Tensor, count: int = 3) -> list[str]:
    """Return names of layers to explain: the last one on each of the last grids.

    Args:
        model: Any module with maps.
        example: Images (N, C, H, W) of the size to explain, or signals (N, C, T) or volumes
            (N, C, D, H, W); their values hardly matter.
        count: Number of grids; a model with fewer gives fewer layers.

    Returns:
        Names for ``LayerKMeansAttribution``, shallow to deep.

    Raises:
        ValueError: No layer has a grid.
        TypeError: The model is no module, or a graph whose layers cannot be read.

    Example:
        >>> import torch, torchvision
        >>> model = torchvision.models.resnet18().eval()
        >>> suggest_layers(model, torch.rand(1, 3, 64, 64), count=2)
        ['layer3', 'layer4']
    """
    return [c.name for c in candidate_layers(model, example, count) if c.is_suggested]


@checked
def candidate_layers(
    model: nn.Module, example: Tensor, count: int = 3
) -> tuple[LayerCandidate, ...]:
    """List the stages of a model with their grids, in the order in which they run.

    A module that takes one grid to at most one other is listed whole; one that holds more of
    them is opened. So blocks of residual or dense layers stand in the list, not their parts.

    Args:
        model: Any module with maps.
        example: Images (N, C, H, W) of the size to explain; the first one is used.
        count: Number of grids to suggest a layer on.

    Raises:
        ValueError: No layer has a grid.
    """
    return _candidates(plain_model(model, "suggest_layers"), ((example,), ()), count)


def suggested_layers(
    model: nn.Module, inputs: tuple[Tensor, ...], args: tuple[object, ...]
) -> list[str]:
    """Return what ``suggest_layers`` does, of a model that takes more than images.

    Args:
        model: The unwrapped model.
        inputs: What it gets, the images (N, C, H, W) first.
        args: Its further arguments.

    Raises:
        ValueError: No layer has a grid.
    """
    return [c.name for c in _candidates(model, (inputs, args), 3) if c.is_suggested]


def _candidates(model: nn.Module, given: Inputs, count: int) -> tuple[LayerCandidate, ...]:
    check_inputs(given[0], model)
    images, args = repeated(one_image(*given), _COPIES)
    example = images[0]
    passed = trace(
        model,
        images,
        additional_forward_args=args,
        tail=_ALL_CALLS,
        with_moments=False,
        needs_logits=False,
    )
    size = grid_of(example)
    calls = {call.name: call for call in passed.calls}
    outputs = {name: _shape(call, call.left, size) for name, call in calls.items()}
    inputs = {name: _shape(call, call.entered, size) for name, call in calls.items()}
    closed = {name for name, call in calls.items() if call.left is not None}
    listed = set(_stages(model, inputs, outputs, closed))
    found = [
        LayerCandidate(name, type(calls[name].module).__name__, shape[0], shape[1:])
        for name, shape in outputs.items()
        if name in listed and shape is not None
    ]
    if not found and len(size) < 2 and any(map(_is_picture, passed.calls)):
        raise ValueError(
            f"all maps of the model {type(model).__name__} have more dimensions than its inputs; "
            f"{FRONT_END}"
        )
    if not found:
        raise ValueError(
            f"no layer of the model {type(model).__name__} has a grid of more than one cell for "
            f"inputs of {grid_text(size)}; give larger images"
        )
    return _marked(found, count)


def _shape(call: Call, record: Record | None, size: Grid) -> Shape | None:
    """Return width and grid of a call's tensor, if it has one."""
    if record is None or record.grid is None or isinstance(call.module, _POOLS):
        return None
    images, width, *grid = record.grid
    # windows of attention stand in the batch, or in one long row; tables of positions alone
    misfits = [abs(grid[0] * size[i] / size[0] - grid[i]) for i in range(1, len(grid))]
    is_grid = images == _COPIES and math.prod(grid) > 1 and max(misfits, default=0) <= 2
    return (width, *grid) if is_grid else None


def _is_picture(call: Call) -> bool:
    """Whether a call returned a map of more dimensions than signals have."""
    return call.left is not None and len(call.left.shape) > 3


def _stages(
    model: nn.Module,
    inputs: dict[str, Shape | None],
    outputs: dict[str, Shape | None],
    closed: Container[str],
) -> Iterator[str]:
    """Walk down from the top as far as modules hold several grids, or return no tensor."""
    todo = [name for name, _ in model.named_children()]
    while todo:
        name = todo.pop()
        inside = [outputs[key] for key in outputs if key.startswith(f"{name}.")]
        left = {shape[1:] for shape in (*inside, outputs.get(name)) if shape is not None}
        entered = inputs.get(name)
        spanned = left | ({entered[1:]} if entered is not None else set())
        if len(spanned) <= 2 and outputs.get(name) is not None:
            yield name
        elif len(left) > 1 or len(spanned) > 2 or name not in closed:
            children = model.get_submodule(name).named_children()
            todo += [f"{name}.{child}" for child, _ in children]


def _marked(found: Sequence[LayerCandidate], count: int) -> tuple[LayerCandidate, ...]:
    """Mark the last candidate on each of the last ``count`` grids."""
    last = {candidate.grid: i for i, candidate in enumerate(found)}
    chosen = sorted(last.values())[-count:]
    return tuple(replace(c, is_suggested=i in chosen) for i, c in enumerate(found))
