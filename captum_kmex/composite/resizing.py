"""Linear resizing (``align_corners=False``) as matrices, and norms of resized vectors."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_kmex.grids import axes_of, over_grid

__all__ = [
    "corners",
    "neighbour_products",
    "norm_from_products",
    "resample_keeping_mean",
    "resize",
    "resize_keeping_mean",
    "resize_matrix",
    "resized_at",
    "transposed_resize",
]

_Made = TypeVar("_Made")

_MOST_KEPT = 256  # matrices of a kind
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
_BACKWARD = {
    1: torch.ops.aten.upsample_linear1d_backward,
    2: torch.ops.aten.upsample_bilinear2d_backward,
    3: torch.ops.aten.upsample_trilinear3d_backward,
}


def resize(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize ``(N, D, *grid)`` linearly along each side, ``align_corners=False`` (eqs. 6, 7)."""
    if maps.shape[2:] == size:
        return maps
    return F.interpolate(maps, size, mode=_MODES[len(size)], align_corners=False)


def resize_keeping_mean(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize ``(N, D, *grid)`` linearly and restore each map's spatial mean.

    At integer ratios linear resizing keeps the mean; at others the borders count a little
    more or less, and the difference is added back evenly to every position.
    """
    if maps.shape[2:] == size:
        return maps
    resized, axes = resize(maps, size), axes_of(maps)
    return resized + over_grid(maps.mean(axes) - resized.mean(axes), maps)


def resample_keeping_mean(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize ``(N, D, *grid)`` to a finer or coarser grid and keep each map's spatial mean.

    Along a side that gets shorter, a new cell is the mean of what it covers: linear resizing
    looks at the two cells beside its centre and at none of the others. Along a side that gets
    longer this is ``resize_keeping_mean``.
    """
    for axis, new in enumerate(size, 2):
        if new < maps.shape[axis]:
            shares = _shares(new, maps.shape[axis], maps.dtype, maps.device)
            maps = _along(maps, axis, shares)
    return resize_keeping_mean(maps, size)


def transposed_resize(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Apply the transpose of ``resize``: ``(N, K, *grid)`` -> ``(N, K, *size)``."""
    if maps.shape[2:] == size:
        return maps
    backward = _BACKWARD[len(size)]
    shape = [*maps.shape[:2], *size]
    result: Tensor = backward(maps.contiguous(), maps.shape[2:], shape, False)
    return result


def resized_at(block: Tensor, size: tuple[int, ...], images: Tensor, *places: Tensor) -> Tensor:
    """Return the vectors (M, D) of chosen positions of the resized block, and only these.

    Args:
        block: Float tensor ``(N, D, *grid)``.
        size: The grid it is resized to.
        images: Index tensor (M,) into the batch.
        places: Index tensors (M,), positions along each side.
    """
    cells, shares = [images], [torch.ones((), dtype=block.dtype, device=block.device)]
    for place, new, old in zip(places, size, block.shape[2:], strict=True):
        low, high, part = (x[place] for x in corners(new, old, block.dtype, block.device))
        cells = [cell * old + side for cell in cells for side in (low, high)]
        shares = [share * side for share in shares for side in (1 - part, part)]
    vectors = block.movedim(1, -1).flatten(0, -2)  # (N * cells, D)
    index, weights = torch.stack(cells, 1), torch.stack(shares, 1)
    return F.embedding_bag(index, vectors, mode="sum", per_sample_weights=weights)


def neighbour_products(block: Tensor) -> Tensor:
    """Return each cell's products with itself and its neighbours ``(N, 2, ..., 2, *grid)``.

    There is a 2 for each side of the grid, 1 where the next cell along that side takes part. Of
    an image, [0, 0] is the cell's square, [0, 1] twice its product with the cell to the right,
    [1, 0] twice that with the cell below, and [1, 1] twice the sum of the products along both
    diagonals of the four. Beyond the border stands anything finite: no position there draws on
    a next cell.
    """
    flat, grid = block.flatten(2), block.shape[2:]
    steps = [math.prod(grid[axis + 1 :]) for axis in range(len(grid))]
    products = []
    for nexts in itertools.product((0, 1), repeat=len(grid)):
        taken = [step for step, is_next in zip(steps, nexts, strict=True) if is_next]
        products.append(_products_of(flat, taken))
    sides = [2] * len(grid)
    return torch.stack(products, 1).view(block.shape[0], *sides, *grid)


def _products_of(flat: Tensor, steps: list[int]) -> Tensor:
    """Return twice the products of all opposite corners of a box with these sides (N, M)."""
    if not steps:
        return flat.square().sum(1)
    first, *others = steps
    corners_of_a_side = itertools.product(*((0, step) for step in others))
    starts = [sum(corner) for corner in corners_of_a_side]
    pairs = [_pairs(flat, start, first + sum(others) - start) for start in starts]
    return 2 * functools.reduce(torch.add, pairs)


def norm_from_products(products: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return the norms ``(N, 1, *size)`` of resized vectors from ``neighbour_products``.

    A resized vector is a sum of neighbours, two along each side, so its squared norm is a fixed
    linear map of their inner products, and that map acts on the sides one after the other.
    """
    sides = len(size)
    grid = products.shape[1 + sides :]
    if grid == size:
        return products.flatten(1, sides)[:, 0].sqrt().unsqueeze(1)
    order = [dim for side in range(1, 1 + sides) for dim in (side, side + sides)]
    shape = [2 * cells for cells in grid]
    squares = products.permute(0, *order).reshape(products.shape[0], *shape)
    for axis in range(sides, 0, -1):
        new, old = size[axis - 1], grid[axis - 1]
        matrix = _square_matrix(new, old, products.dtype, products.device)
        squares = _along(squares, axis, matrix)
    return squares.clamp_min(0).sqrt().unsqueeze(1)


def _along(maps: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """Apply a matrix (new, old) to one dimension of maps."""
    if axis == maps.ndim - 1:
        return torch.matmul(maps, matrix.T)
    products = torch.matmul(matrix, maps.flatten(axis + 1))
    found: Tensor = products.unflatten(-1, maps.shape[axis + 1 :])
    return found


def _pairs(flat: Tensor, first: int, second: int) -> Tensor:
    """Return products of the cells (N, D, M) from ``first`` on with those from ``second`` on.

    They are (N, M), with zeros at the end, where one of the two is beyond it.
    """
    cells = flat.shape[2]
    count = max(0, cells - max(first, second))
    products = flat[..., first : first + count] * flat[..., second : second + count]
    padded: Tensor = F.pad(products.sum(1), (0, cells - count))
    return padded


def _kept(make: Callable[..., _Made]) -> Callable[..., _Made]:
    """Keep what is made for a size; what an exporter's trace makes holds no numbers."""
    kept: dict[tuple[object, ...], _Made] = {}

    @functools.wraps(make)
    def call(*args: Any) -> _Made:
        if any(isinstance(arg, torch.SymInt) for arg in args):
            return make(*args)
        found = kept.get(args)
        if found is None:
            found = make(*args)
            if not torch.compiler.is_compiling():
                if len(kept) >= _MOST_KEPT:
                    kept.clear()
                kept[args] = found
        return found

    return call


@_kept
def corners(
    size: int, cells: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return lower cell, upper cell and the upper's weight for each of ``size`` positions."""
    positions = torch.arange(size, device=device, dtype=dtype)
    source = ((positions + 0.5) * (cells / size) - 0.5).clamp_min(0)
    lower = source.floor().long().clamp_max(cells - 1)
    return lower, (lower + 1).clamp_max(cells - 1), source - lower


@_kept
def resize_matrix(size: int, cells: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the matrix (size, cells) of linear resizing along one dimension."""
    lower, upper, weight = corners(size, cells, dtype, device)
    matrix = torch.zeros(size, cells, dtype=dtype, device=device)
    positions = torch.arange(size, device=device)
    matrix[positions, lower] += 1 - weight
    matrix[positions, upper] += weight
    return matrix


@_kept
def _shares(size: int, cells: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the share (size, cells) of each of fewer new cells that each old one covers."""
    new, old = torch.arange(size + 1) * cells, torch.arange(cells + 1) * size
    ends = torch.minimum(new[1:, None], old[None, 1:])
    covered = (ends - torch.maximum(new[:-1, None], old[None, :-1])).clamp_min(0)
    return (covered.to(torch.float64) / cells).to(device, dtype)


@_kept
def _square_matrix(size: int, cells: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return what takes cells' squares, then products with the next cell, to positions."""
    matrix = resize_matrix(size, cells, dtype, device)
    pairs = torch.zeros_like(matrix)
    pairs[:, :-1] = matrix[:, :-1] * matrix[:, 1:]
    return torch.cat([matrix.square(), pairs], 1)
