"""The columns of an affine tail: its gradients by the map, many logits at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from captum_kmex.grids import axes_of
from captum_kmex.model.activations import run
from captum_kmex.model.tail import Course, TailCut
from captum_kmex.model.tail_probe import Inputs, repeated
from captum_kmex.model.timeline import Place

__all__ = ["read_columns"]

_AT_ONCE = 32  # logits of which the gradients are taken together
_ALIKE = 1e-4  # of a column's largest value, that positions may differ by


def read_columns(
    model: nn.Module, given: Inputs, place: Place, course: Course, n_logits: int
) -> Tensor:
    """Return the columns (J, D), or ``(J, D, *grid)`` where each position has its own.

    The tail is run on copies of one map, and each copy has the gradient of another logit.

    Args:
        model: The unwrapped model.
        given: Inputs and further arguments of one image.
        place: The map that the tail reads.
        course: How the tail is run.
        n_logits: Number of logits J.

    Raises:
        RuntimeError: The tail cannot be recorded.
    """
    leaf, outcome = _copies(model, given, place, course, min(n_logits, _AT_ONCE))
    alike: list[Tensor] = []
    for columns in _gradients(leaf, outcome, place):
        mean = columns.mean(axes_of(columns), keepdim=True)
        if ((columns - mean).abs().amax() > _ALIKE * columns.abs().amax()).any():
            return torch.cat(list(_gradients(leaf, outcome, place)))
        alike.append(mean.flatten(1))
    return torch.cat(alike)


def _copies(
    model: nn.Module, given: Inputs, place: Place, course: Course, count: int
) -> tuple[Tensor, Tensor]:
    """Return copies of a map, as the module has it, and what the tail makes of them."""
    for images in (1, count):  # before the map one image may do
        cut = TailCut(place.tap, lambda found: found[:1].repeat_interleave(count, 0), course=course)
        inputs, args = repeated(given, images)
        try:
            outcome = cut.outcome(run(model, inputs, args, cut, count))
        except (RuntimeError, ValueError):
            continue
        if cut.leaf is not None and outcome.requires_grad and len(outcome) == count:
            return cut.leaf, outcome
    raise RuntimeError(f"the tail from {place.tap} on cannot be recorded")


def _gradients(leaf: Tensor, outcome: Tensor, place: Place) -> Iterator[Tensor]:
    """Yield the columns ``(R, D, *grid)`` of the logits, some at once."""
    wide = torch.promote_types(leaf.dtype, torch.float32)
    for start in range(0, outcome.shape[1], len(outcome)):
        logits = range(start, min(start + len(outcome), outcome.shape[1]))
        rows = torch.arange(len(logits), device=outcome.device)
        weights = torch.zeros_like(outcome)
        weights[rows, rows + start] = 1
        (found,) = torch.autograd.grad(outcome, leaf, weights, retain_graph=True)
        yield place.grid(found[: len(logits)]).to(wide) * place.cells
