"""Maps on grids of one, two or three dimensions: of signals, images and volumes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["FRONT_END", "KINDS", "axes_of", "grid_of", "grid_text", "over_grid"]

KINDS = {1: "signals (N, C, T)", 2: "images (N, C, H, W)", 3: "volumes (N, C, D, H, W)"}

# segments of a picture that is made inside a model are none of what the model gets
FRONT_END = (
    "a model that makes pictures of signals inside, such as spectrograms, is explained from there "
    "on: pass the part behind, a module or a function, as the model, and the pictures as inputs"
)


def axes_of(maps: Tensor) -> tuple[int, ...]:
    """Return the dimensions of the grid of maps ``(N, D, *grid)``."""
    return tuple(range(2, maps.ndim))


def grid_of(maps: Tensor) -> tuple[int, ...]:
    """Return the size of the grid of maps ``(N, D, *grid)``."""
    return tuple(maps.shape[2:])


def over_grid(values: Tensor, maps: Tensor) -> Tensor:
    """Return values ``(N, ...)`` with as many dimensions as maps, the last ones of size 1."""
    return values[(..., *[None] * (maps.ndim - values.ndim))]


def grid_text(grid: Sequence[int]) -> str:
    """Return the size of a grid in words."""
    return "x".join(map(str, grid))
