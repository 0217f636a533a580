"""Stacked features of several layers (eqs. 6-8; not zennit's composite), never concatenated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["StackedBlocks", "block_weights", "resize", "resize_keeping_mean"]

_FEW_PROTOTYPES = 256  # up to here all images' scores are computed at once
_STRIP_SCORES = 2**18  # scores of one strip: 1 MiB, a core's cache
_SCORES_BYTES = 64 * 2**20  # scores of one chunk of prototypes


def block_weights(weighting: str | Sequence[float], widths: Sequence[int]) -> tuple[float, ...]:
    """Return the weight of each block in the composite (eq. 8).

    Args:
        weighting: ``"balanced"`` (1), ``"nave"`` ((1 + D_l) / (1 + D_L), relative to the deepest
            block), ``"dimension"`` (1 / sqrt(D_l)), or one positive number a block.
        widths: Channels D_l of each block.

    Raises:
        ValueError: Unknown name, wrong count, or a weight that is not positive.

    Reference:
        Boubekki & Clemmensen (2026), eq. 8; Boubekki et al., NAVE (2024).
    """
    if isinstance(weighting, str):
        if weighting == "balanced":
            return (1.0,) * len(widths)
        if weighting == "nave":
            return tuple((1 + width) / (1 + widths[-1]) for width in widths)
        if weighting == "dimension":
            return tuple(width**-0.5 for width in widths)
        raise ValueError(
            f"weighting {weighting!r} is unknown; choose 'balanced', 'nave', 'dimension' or "
            f"pass {len(widths)} numbers"
        )
    weights = tuple(float(weight) for weight in weighting)
    if len(weights) != len(widths) or any(not 0 < weight < float("inf") for weight in weights):
        raise ValueError(
            f"weighting has {len(weights)} entries {weights} for {len(widths)} layers; pass one "
            "positive number a layer"
        )
    return weights


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
    resized = resize(maps, size)
    return resized + (maps.mean((2, 3)) - resized.mean((2, 3)))[..., None, None]


@dataclass(frozen=True)
class StackedBlocks:
    """Blocks l..L of one batch on the grid of the finest, each pixel's block vector unit norm.

    The composite row of pixel p is the concatenation of ``w_l * up(h_l)_p / |up(h_l)_p|``.
    Interpolation commutes with products, ``<up(h), p> = up(<h, p>)``, so blocks are multiplied
    at their own resolution and only the products are resized.

    Attributes:
        blocks: Float tensors (N, D_l, h_l, w_l), shallow to deep.
        weights: One weight a block.

    Reference:
        Boubekki & Clemmensen (2026), eqs. 6-8.
    """

    blocks: tuple[Tensor, ...]
    weights: tuple[float, ...]

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the shallowest block."""
        return self.blocks[0].shape[2], self.blocks[0].shape[3]

    @property
    def width(self) -> int:
        """Composite width D, the sum of the blocks' channels."""
        return sum(block.shape[1] for block in self.blocks)

    def suffix(self, depth: int) -> StackedBlocks:
        """Return the composite of the blocks from ``depth`` on."""
        return StackedBlocks(self.blocks[depth:], self.weights[depth:])

    @cached_property
    def scales(self) -> tuple[Tensor, ...]:
        """Weight over norm of each block's resized vectors, (N, 1, H, W) a block."""
        return tuple(
            weight / norm.clamp_min(torch.finfo(norm.dtype).eps)
            for weight, norm in zip(self.weights, self._norms, strict=True)
        )

    @cached_property
    def _norms(self) -> tuple[Tensor, ...]:
        return tuple(interpolated_norm(block, self.grid) for block in self.blocks)

    @cached_property
    def squared_norms(self) -> Tensor:
        """Squared norm of the composite rows (N, H, W): sum of w_l^2 where no block is zero."""
        pairs = zip(self.scales, self._norms, strict=True)
        return torch.stack([(scale * norm).square() for scale, norm in pairs]).sum(0).squeeze(1)

    def scores(self, prototypes: Tensor) -> Tensor:
        """Return ``<z_p, p_k> - |p_k|^2 / 2`` (N, K, H, W), largest for the nearest prototype.

        Args:
            prototypes: Float tensor (K, D), or (N, K, D) with its own prototypes an image.
        """
        total = -0.5 * prototypes.square().sum(-1)[..., None, None]
        widths = [block.shape[1] for block in self.blocks]
        parts = prototypes.split(widths, -1)
        for part, block, scale in zip(parts, self.blocks, self.scales, strict=True):
            products = torch.matmul(part, block.flatten(2)).unflatten(2, block.shape[2:])
            total = total + resize(products, self.grid) * scale
        return total

    def nearest(self, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        """Return each pixel's nearest prototype (eq. 9) and its squared distance.

        Args:
            prototypes: Float tensor (K, D), or (N, K, D) with its own prototypes an image.

        Returns:
            Index tensor (N, H, W), lowest index at ties, and float tensor (N, H, W). Memory
            does not grow with K.
        """
        if self.blocks[0].device.type == "cpu" and prototypes.shape[-2] > _FEW_PROTOTYPES:
            best, index = nearest_by_strips(self, prototypes)
        else:
            best, index = self._nearest_by_chunks(prototypes)
        return index, (self.squared_norms - 2 * best).clamp_min(0)

    def _nearest_by_chunks(self, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        """Return best scores and indices, some prototypes of all images at a time."""
        images = len(self.blocks[0])
        chunk = max(1, _SCORES_BYTES // (4 * images * self.grid[0] * self.grid[1]))
        best, index = self.scores(prototypes[..., :chunk, :]).max(1)
        for start in range(chunk, prototypes.shape[-2], chunk):
            values, found = self.scores(prototypes[..., start : start + chunk, :]).max(1)
            better = values > best
            best = torch.where(better, values, best)
            index = torch.where(better, found + start, index)
        return best, index

    @property
    def masses(self) -> None:
        """``None``: all rows have the same norm, none is far out."""

    def select(self, images: Tensor) -> StackedBlocks:
        """Return the composite of chosen images."""
        return StackedBlocks(tuple(block[images] for block in self.blocks), self.weights)

    def rows(self, images: Tensor, pixels: Tensor) -> Tensor:
        """Return composite rows (M, D) of chosen pixels; only these are interpolated.

        Args:
            images: Index tensor (M,) into the batch.
            pixels: Index tensor (M,) into the flattened grid.
        """
        _, columns = self.grid
        y, x = pixels // columns, pixels % columns
        parts = []
        for block, weight in zip(self.blocks, self.weights, strict=True):
            cells = block.permute(0, 2, 3, 1)
            y0, y1, v = _corners(self.grid[0], block.shape[2], block.dtype, block.device)
            x0, x1, u = _corners(self.grid[1], block.shape[3], block.dtype, block.device)
            v, u = v[y, None], u[x, None]
            top = cells[images, y0[y], x0[x]] * (1 - u) + cells[images, y0[y], x1[x]] * u
            low = cells[images, y1[y], x0[x]] * (1 - u) + cells[images, y1[y], x1[x]] * u
            vectors = top * (1 - v) + low * v
            norm = vectors.norm(dim=1, keepdim=True)
            parts.append(vectors * (weight / norm.clamp_min(torch.finfo(norm.dtype).eps)))
        return torch.cat(parts, 1)

    def sums(self, membership: Tensor) -> Tensor:
        """Return the sums of the rows of each cluster (N, K, D), by transposed resizing.

        Args:
            membership: Float tensor (N, K, H, W), 1 where a pixel belongs to a cluster.
        """
        parts = []
        for block, scale in zip(self.blocks, self.scales, strict=True):
            weighted = _transposed_resize(membership * scale, (block.shape[2], block.shape[3]))
            parts.append(torch.matmul(weighted.flatten(2), block.flatten(2).transpose(1, 2)))
        return torch.cat(parts, 2)


def nearest_by_strips(stack: StackedBlocks, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """Return best scores and indices (N, H, W), a few grid rows of one image at a time.

    On a CPU the scores of a strip stay in cache, the resizing of a deeper block's products is
    one small matrix product added in place, and NumPy's argmax over contiguous scores is
    several times faster than torch's.

    Args:
        stack: The batch's composite.
        prototypes: Float tensor (K, D), or (N, K, D).
    """
    height, width = stack.grid
    images, clusters = len(stack.blocks[0]), prototypes.shape[-2]
    step = min(height, max(1, _STRIP_SCORES // (width * clusters)))
    strips = [_strip(stack, top, min(top + step, height)) for top in range(0, height, step)]
    index = np.empty((images, height * width), dtype=np.int64)
    best = np.empty((images, height * width), dtype=str(prototypes.dtype).removeprefix("torch."))
    widths = [block.shape[1] for block in stack.blocks]
    for n in range(images):
        own = prototypes if prototypes.ndim == 2 else prototypes[n]
        parts = [part.T for part in own.split(widths, 1)]
        offset = -0.5 * own.square().sum(1)
        finest = stack.blocks[0][n].flatten(1) * stack.scales[0][n].flatten(1)
        deeper = [
            block[n].flatten(1).T @ part
            for block, part in zip(stack.blocks[1:], parts[1:], strict=True)
        ]
        scales = [scale[n].flatten() for scale in stack.scales[1:]]
        for strip in strips:
            scores = torch.addmm(offset, finest[:, strip.pixels].T, parts[0])
            for products, scale, weights, cells in zip(
                deeper, scales, strip.weights, strip.cells, strict=True
            ):
                scores.addmm_(weights * scale[strip.pixels, None], products[cells])
            values = scores.numpy()
            found = values.argmax(1)
            index[n, strip.pixels] = found
            best[n, strip.pixels] = np.take_along_axis(values, found[:, None], 1)[:, 0]
    shape = (images, height, width)
    return torch.from_numpy(best).view(shape), torch.from_numpy(index).view(shape)


@dataclass(frozen=True)
class _Strip:
    """Some rows of the grid and how each deeper block's cells are resized onto them."""

    pixels: slice
    cells: tuple[slice, ...]
    weights: tuple[Tensor, ...]


def _strip(stack: StackedBlocks, top: int, bottom: int) -> _Strip:
    height, width = stack.grid
    cells, weights = [], []
    for block in stack.blocks[1:]:
        rows, columns = block.shape[2:]
        down = _resize_matrix(height, rows, block)[top:bottom]
        used = down.any(0).nonzero()
        first, last = int(used[0]), int(used[-1]) + 1
        across = _resize_matrix(width, columns, block)
        weights.append(torch.kron(down[:, first:last].contiguous(), across))
        cells.append(slice(first * columns, last * columns))
    return _Strip(slice(top * width, bottom * width), tuple(cells), tuple(weights))


def _resize_matrix(size: int, cells: int, like: Tensor) -> Tensor:
    """Return the matrix (size, cells) of bilinear resizing along one dimension."""
    lower, upper, weight = _corners(size, cells, like.dtype, like.device)
    matrix = like.new_zeros(size, cells)
    positions = torch.arange(size, device=like.device)
    matrix[positions, lower] += 1 - weight
    matrix[positions, upper] += weight
    return matrix


def interpolated_norm(block: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the norms (N, 1, H, W) of the bilinearly resized vectors, without resizing them.

    A resized vector is a sum of four neighbours, so its squared norm needs only their inner
    products: with itself, to the right, below, and along both diagonals.
    """
    same = _inner(block, block)  # (N, h, w)
    if block.shape[-2:] == size:
        return same.sqrt().unsqueeze(1)
    # beyond the border a cell is its own neighbour
    beside = torch.cat([_inner(block[..., :-1], block[..., 1:]), same[..., -1:]], 2)
    upper, lower = block[:, :, :-1], block[:, :, 1:]
    below = _inner(upper, lower)
    diagonals = _inner(upper[..., :-1], lower[..., 1:]) + _inner(upper[..., 1:], lower[..., :-1])
    diagonals = torch.cat([diagonals, 2 * below[..., -1:]], 2)
    across, across_pairs = _square_matrices(size[1], block.shape[3], block.dtype, block.device)
    down, down_pairs = _square_matrices(size[0], block.shape[2], block.dtype, block.device)
    row = same @ across.T + 2 * (beside @ across_pairs.T)  # (N, h, W)
    between = below @ across.T + diagonals @ across_pairs.T
    between = torch.cat([between, row[:, -1:]], 1)
    squares = down @ row + 2 * (down_pairs @ between)
    return squares.clamp_min(0).sqrt().unsqueeze(1)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)


@lru_cache(maxsize=256)
def _corners(
    size: int, cells: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return lower cell, upper cell and the upper's weight for each of ``size`` positions."""
    positions = torch.arange(size, device=device, dtype=dtype)
    source = ((positions + 0.5) * (cells / size) - 0.5).clamp_min(0)
    lower = source.floor().long().clamp_max(cells - 1)
    return lower, (lower + 1).clamp_max(cells - 1), source - lower


@lru_cache(maxsize=256)
def _square_matrices(
    size: int, cells: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return what takes a cell's square, and its product with the next, to each position."""
    lower, upper, weight = _corners(size, cells, dtype, device)
    positions = torch.arange(size, device=device)
    squares = torch.zeros(size, cells, dtype=dtype, device=device)
    pairs = torch.zeros_like(squares)
    squares[positions, lower] += (1 - weight) ** 2
    squares[positions, upper] += weight**2
    pairs[positions, lower] += weight * (1 - weight)
    return squares, pairs


def _transposed_resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Apply the transpose of ``resize``: (N, K, H, W) -> (N, K, h, w)."""
    if maps.shape[-2:] == size:
        return maps
    backward = torch.ops.aten.upsample_bilinear2d_backward
    shape = [*maps.shape[:2], *size]
    result: Tensor = backward(maps.contiguous(), maps.shape[-2:], shape, False)
    return result
