"""Bilinear resizing (``align_corners=False``) as matrices, and norms of resized vectors."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

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


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, D, h, w) bilinearly, ``align_corners=False`` (eqs. 6, 7)."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def resize_keeping_mean(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, D, h, w) bilinearly and restore each map's spatial mean.

    At integer ratios bilinear resizing keeps the mean; at others the borders count a little
    more or less, and the difference is added back evenly to every position.
    """
    if maps.shape[-2:] == size:
        return maps
    resized = resize(maps, size)
    return resized + (maps.mean((2, 3)) - resized.mean((2, 3)))[..., None, None]


def resample_keeping_mean(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, D, h, w) to a finer or coarser grid and keep each map's spatial mean.

    Along a side that gets shorter, a new cell is the mean of what it covers: bilinear resizing
    looks at the two cells beside its centre and at none of the others. Along a side that gets
    longer this is ``resize_keeping_mean``.
    """
    height, width = maps.shape[2:]
    if size[0] < height:
        maps = torch.matmul(_shares(size[0], height, maps.dtype, maps.device), maps)
    if size[1] < width:
        maps = torch.matmul(maps, _shares(size[1], width, maps.dtype, maps.device).T)
    return resize_keeping_mean(maps, size)


def transposed_resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Apply the transpose of ``resize``: (N, K, H, W) -> (N, K, h, w)."""
    if maps.shape[-2:] == size:
        return maps
    backward = torch.ops.aten.upsample_bilinear2d_backward
    shape = [*maps.shape[:2], *size]
    result: Tensor = backward(maps.contiguous(), maps.shape[-2:], shape, False)
    return result


def resized_at(
    block: Tensor, size: tuple[int, int], images: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    """Return the vectors (M, D) of chosen positions of the resized block, and only these.

    Args:
        block: Float tensor (N, D, h, w).
        size: Height and width of the grid it is resized to.
        images: Index tensor (M,) into the batch.
        rows: Index tensor (M,), positions along the height.
        columns: Index tensor (M,), positions along the width.
    """
    height, width = block.shape[2:]
    top, bottom, v = (x[rows] for x in corners(size[0], height, block.dtype, block.device))
    left, right, u = (x[columns] for x in corners(size[1], width, block.dtype, block.device))
    cells = [top * width + left, top * width + right, bottom * width + left, bottom * width + right]
    shares = [(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u]
    index = torch.stack(cells, 1) + (images * (height * width)).unsqueeze(1)
    vectors = block.permute(0, 2, 3, 1).flatten(0, 2)  # (N * h * w, D)
    return F.embedding_bag(index, vectors, mode="sum", per_sample_weights=torch.stack(shares, 1))


def neighbour_products(block: Tensor) -> Tensor:
    """Return each cell's inner products with itself and its neighbours (N, 2, 2, h, w).

    The two leading entries are down and right: [0, 0] is the cell's square, [0, 1] twice its
    product with the cell to the right, [1, 0] twice that with the cell below, and [1, 1] twice
    the sum of the products along both diagonals of the four. Beyond the border stands
    anything finite: no position there draws on a next cell.
    """
    width, flat = block.shape[3], block.flatten(2)
    both = _pairs(flat, 0, width + 1) + _pairs(flat, 1, width)
    products = [flat.square().sum(1), 2 * _pairs(flat, 0, 1), 2 * _pairs(flat, 0, width), 2 * both]
    return torch.stack(products, 1).view(block.shape[0], 2, 2, *block.shape[2:])


def norm_from_products(products: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the norms (N, 1, H, W) of resized vectors from ``neighbour_products``.

    A resized vector is a sum of four neighbours, so its squared norm is a fixed linear map of
    their inner products, and that map acts on rows and columns one after the other.
    """
    images, _, _, height, width = products.shape
    if (height, width) == size:
        return products[:, 0, 0].sqrt().unsqueeze(1)
    down = _square_matrix(size[0], height, products.dtype, products.device)
    across = _square_matrix(size[1], width, products.dtype, products.device)
    table = products.transpose(2, 3).reshape(images, 2 * height, 2 * width)
    squares: Tensor = torch.matmul(down, torch.matmul(table, across.T))
    return squares.clamp_min(0).sqrt().unsqueeze(1)


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

    @wraps(make)
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
    """Return the matrix (size, cells) of bilinear resizing along one dimension."""
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
