"""What is known of the tail of a model from a tap on: affine, or linearised at each image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captum_kmex.grids import grid_of, over_grid
from captum_kmex.model.head import LinearHead
from captum_kmex.model.hooks import coarser
from captum_kmex.model.linearised import LinearisedHead
from captum_kmex.model.state import ModelState
from captum_kmex.model.tail import Course, TailCut
from captum_kmex.model.timeline import Place

__all__ = ["ExactTail", "LinearisedTail"]

_TOLERANCE = 1e-3  # of the largest gradient, no finer than half precision


@dataclass(frozen=True, eq=False)
class _Tail:
    """What both kinds of tail have in common.

    Attributes:
        place: The map that the tail reads.
        bias: The logits (J,) of an empty map; ``None`` where other inputs have a part in them.
        state: The model that this was found of.
        course: How the tail is run.
    """

    place: Place
    bias: Tensor | None
    state: ModelState
    course: Course

    @property
    def tap(self) -> str:
        """Name of the module at which the map is read."""
        return self.place.tap.name

    @property
    def at_input(self) -> bool:
        """The map is what that module gets."""
        return self.place.tap.at_input

    def is_for(self, model: nn.Module, images: Tensor) -> bool:
        """Whether it was found of this model, as it is now, and tokens stand on the same grid."""
        has_grid = isinstance(self.place.layout, int) or self.place.size == grid_of(images)
        return has_grid and self.state.is_of(model)

    def features(self, tap: Tensor) -> Tensor:
        """Return the feature map ``(N, D, *grid)`` from the tap module's map: the same."""
        return tap

    def on_grid(self, value: Tensor) -> Tensor:
        """Return the module's tensor, or a gradient of it, as a map ``(N, D, *grid)``."""
        wide = torch.promote_types(value.dtype, torch.float32)
        return self.place.grid(value.detach()).to(wide).contiguous()


@dataclass(frozen=True, eq=False)
class ExactTail(_Tail):
    """A tail that is affine in its map, with the columns read from it.

    Attributes:
        read: Columns (J, D), or ``(J, D, *grid)`` where each position has its own.
    """

    read: Tensor

    def columns(self, _model: nn.Module) -> Tensor:
        """Return the columns (J, D), or ``(J, D, *grid)``."""
        return self.read

    def cut(self) -> TailCut:
        """Return how to run a pass: where the bias is not known, gradients are compared."""
        return TailCut(self.place.tap, records=self.bias is None, course=self.course)

    def head(self, leaf: Tensor, outcome: Tensor) -> LinearHead | None:
        """Return the head at the images of a pass; ``None`` if it is for other maps.

        Args:
            leaf: The map as the module has it.
            outcome: What the tail made of it (N, J).
        """
        features = self.on_grid(leaf)
        columns = self.read.to(features)
        if features.shape[1 : columns.ndim] != columns.shape[1:]:
            return None
        if self.bias is not None:
            return LinearHead(columns, self.bias.to(features))
        bare = LinearHead(columns, columns.new_zeros(len(columns)))
        return LinearHead(columns, outcome.detach().to(features) - bare.logits(features))

    def holds(self, leaf: Tensor, outcome: Tensor, dtype: torch.dtype) -> bool:
        """Whether the columns give what the tail made of the map, or else have its gradient.

        Args:
            leaf: The map as the module has it.
            outcome: What the tail made of it (N, J), with its tape where the bias is not known.
            dtype: The coarsest floating-point type of the pass.
        """
        head = self.head(leaf, outcome)
        if head is None:
            return False
        if self.bias is None:
            return self._has_gradient_of(leaf, outcome)
        features, dtype = self.on_grid(leaf), coarser(dtype, leaf.dtype)
        return not bool(head.misses(features, outcome.to(features), dtype).any())

    def _has_gradient_of(self, leaf: Tensor, outcome: Tensor) -> bool:
        """Whether a sum of the outcome, with random weights, has the gradient of the columns."""
        weights = torch.randn(outcome.shape[1], generator=torch.Generator().manual_seed(0))
        with torch.inference_mode(False), torch.enable_grad():
            total = (outcome * weights.to(outcome)).sum()
            (gradient,) = torch.autograd.grad(total, leaf, retain_graph=True)
        found = self.on_grid(gradient) * self.place.cells
        expected = torch.tensordot(weights.to(found), self.read.to(found), 1)
        off = (found - over_grid(expected, found[0])).abs().flatten(1).amax(1)
        return bool((off <= _TOLERANCE * expected.abs().amax()).all())

    def linearised(self, reason: str) -> LinearisedTail:
        """Return the same tail as one that is not affine for all images."""
        return LinearisedTail(self.place, self.bias, self.state, self.course, reason)


@dataclass(frozen=True, eq=False)
class LinearisedTail(_Tail):
    """A tail that is not affine in its map.

    Attributes:
        reason: Why the model has no linear head.
    """

    reason: str

    def cut(self) -> TailCut:
        """Return how to run a pass."""
        return TailCut(self.place.tap, course=self.course)

    def head(self, leaf: Tensor, outcome: Tensor) -> LinearisedHead:
        """Return the tail at the images of a pass.

        Args:
            leaf: The map as the module has it, a leaf of the tape.
            outcome: What the tail made of it (N, J), with the tape.
        """
        return LinearisedHead(self.on_grid(leaf), leaf, outcome, self.place.grid, self.bias)
