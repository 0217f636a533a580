"""The nearest prototype of each pixel of stacked layers on a CPU, a part at a time (eq. 9)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from captum_kmex.composite.by_class import ClassChunk
from captum_kmex.composite.nearness import LogNearness
from captum_kmex.composite.packed import PackedPrototypes
from captum_kmex.composite.resizing import resize, resize_matrix
from captum_kmex.grids import grid_of

__all__ = ["nearest_at_once", "nearest_by_tiles"]

_TILE_WIDTH = 16  # columns of a tile, at most
_TILE_PIXELS = 64  # enough rows for a fast matrix product, few enough to share deeper cells
_PRODUCTS = 2**21  # of several images' deeper cells, made in one go: 8 MiB
_PROTOTYPES = 2048  # scored together, so that memory does not grow with their number


class Stack(Protocol):
    """What is assigned: layers of one batch, as ``StackedBlocks`` has them."""

    @property
    def blocks(self) -> tuple[Tensor, ...]:
        """Float tensors ``(N, D_l, *grid_l)``, shallow to deep."""

    @property
    def scales(self) -> tuple[Tensor, ...]:
        """Weight over norm of each block's resized vectors, ``(N, 1, *grid)`` a block."""

    @property
    def grid(self) -> tuple[int, ...]:
        """The grid of the shallowest block."""


def nearest_at_once(
    stack: Stack, prototypes: PackedPrototypes, nearness: LogNearness | None = None
) -> tuple[Tensor, Tensor]:
    """Return best scores and indices ``(N, *grid)`` from the scores of all pixels together.

    Scores stand (pixel, prototype), so that resizing and argmax run along memory; NumPy's
    argmax is several times faster than torch's.

    Args:
        stack: The batch's composite.
        prototypes: Prototypes of all images, or with its own an image.
        nearness: What collects the scores for a vote.
    """
    images, grid = len(stack.blocks[0]), stack.grid
    parts = prototypes.values.split([block.shape[1] for block in stack.blocks], -1)
    total = prototypes.offsets.unsqueeze(-2)  # (1, K) or (N, 1, K)
    for part, block, scale in zip(parts, stack.blocks, stack.scales, strict=True):
        cells = block.flatten(2).transpose(1, 2)  # (N, cells, D_l)
        products = torch.bmm(cells, part.mT.expand(images, -1, -1))
        maps = products.unflatten(1, block.shape[2:]).movedim(-1, 1)
        resized = resize(maps, grid).movedim(1, -1).flatten(1, -2)
        total = torch.addcmul(total, resized, scale.flatten(1).unsqueeze(2))
    if nearness is not None:
        for chunk in prototypes.chunks(prototypes.count):
            nearness.add(total, chunk, slice(None))
    index = torch.from_numpy(total.numpy().argmax(2)).unsqueeze(2)
    best = total.gather(2, index)
    return best.view(images, *grid), index.view(images, *grid)


def nearest_by_tiles(
    stack: Stack,
    prototypes: PackedPrototypes,
    tile_scores: int,
    nearness: LogNearness | None = None,
) -> tuple[Tensor, Tensor]:
    """Return best scores and indices ``(N, *grid)``, a tile of one image's grid at a time.

    The scores of a tile are one matrix product: of its pixels' finest vectors and resizing
    weights, with the finest part of the prototypes, their offsets and the deeper blocks'
    products at the few cells that the tile draws on. They stay in a core's cache.

    Args:
        stack: The batch's composite.
        prototypes: Prototypes of all images, or with its own an image.
        tile_scores: Most scores of a tile.
        nearness: What collects the scores for a vote.
    """
    images, like = len(stack.blocks[0]), prototypes.values
    chunks = prototypes.chunks(_PROTOTYPES)
    tiling = _tiling(
        stack.grid,
        tuple(map(grid_of, stack.blocks[1:])),
        max(1, min(_TILE_PIXELS, tile_scores // max(chunk.count for chunk in chunks))),
        like.dtype,
    )
    shape = (images, math.prod(stack.grid))
    best, index = like.new_full(shape, -torch.inf), torch.zeros(shape, dtype=torch.int64)
    for chunk in chunks:
        scorer = _TileScorer(stack, tiling, prototypes, chunk, nearness)
        for n in range(images):
            values, found = scorer.best(n)
            better = values > best[n]
            best[n] = torch.where(better, values, best[n])
            index[n] = torch.where(better, found + chunk.prototypes.start, index[n])
    order = tiling.positions
    return best[:, order].view(images, *stack.grid), index[:, order].view(images, *stack.grid)


class _TileScorer:
    """Scores of one chunk of prototypes, tile by tile, in buffers that are used again.

    Attributes:
        operand: Float tensor (D_1 + 1 + cells, K): the finest part of the prototypes, their
            offsets, and the deeper products that a tile draws on.
    """

    def __init__(
        self,
        stack: Stack,
        tiling: _Tiling,
        prototypes: PackedPrototypes,
        chunk: ClassChunk,
        nearness: LogNearness | None,
    ) -> None:
        self.stack, self.tiling, self.chunk, self.nearness = stack, tiling, chunk, nearness
        self.finest = prototypes.finest(stack.blocks[0].shape[1])[..., chunk.prototypes]
        self.prototypes = prototypes.values[..., chunk.prototypes, :]
        top, count = self.finest.shape[-2:]
        rows = top + sum(cells.shape[1] for cells in tiling.cells)
        self.operand = self.finest.new_empty(rows, count)
        self.rows = np.arange(np.diff(tiling.bounds).max())
        self.scores = self.operand.new_empty(len(self.rows), count)
        cells = sum(block[0, 0].numel() for block in stack.blocks[1:])
        self.together = 1
        if self.finest.ndim == 2 and cells:
            self.together = min(len(stack.blocks[0]), max(1, _PRODUCTS // (cells * count)))
        self.products = [
            self.operand.new_empty(self.together * block[0, 0].numel(), count)
            for block in stack.blocks[1:]
        ]
        self.factors = self.operand.new_ones(rows, len(tiling.pixels))
        voters = 0 if nearness is None else len(chunk.sizes)
        self.by_class = self.operand.new_empty(1, len(tiling.pixels), voters)
        stops = np.cumsum([top, *(cells.shape[1] for cells in tiling.cells)]).tolist()
        self.deeper = [slice(first, stop) for first, stop in pairwise(stops)]
        if self.finest.ndim == 2:
            self.operand[:top] = self.finest

    def best(self, image: int) -> tuple[Tensor, Tensor]:
        """Return best scores and indices (P,) of an image, in the order of the tiles."""
        if image % self.together == 0:
            self._multiply(image)
        self._weigh(image)
        products = [part.unflatten(0, (self.together, -1)) for part in self.products]
        own = [part[image % self.together] for part in products]
        best = self.factors.new_empty(self.factors.shape[1])
        index = torch.empty(len(best), dtype=torch.int64)
        values, to_best, to_index = self.scores.numpy(), best.numpy(), index.numpy()
        for tile, (start, stop) in enumerate(pairwise(self.tiling.bounds)):
            for rows, part, cells in zip(self.deeper, own, self.tiling.cells, strict=True):
                torch.index_select(part, 0, cells[tile], out=self.operand[rows])
            size = stop - start
            torch.mm(self.factors[:, start:stop].T, self.operand, out=self.scores[:size])
            found = values[:size].argmax(1, out=to_index[start:stop])
            to_best[start:stop] = values[self.rows[:size], found]
            if self.nearness is not None:
                scores = self.scores[None, :size]
                self.by_class[:, start:stop] = self.chunk.best(scores, 2)
        if self.nearness is not None:
            images = slice(image, image + 1)
            self.nearness.add_best(self.by_class, self.chunk, images, self.tiling.pixels)
        return best, index

    def _multiply(self, first: int) -> None:
        """Multiply the deeper blocks of the images from ``first`` on that go together."""
        blocks, prototypes = self.stack.blocks, self.prototypes
        if prototypes.ndim == 3:
            prototypes = prototypes[first]
            self.operand[: self.finest.shape[1]] = self.finest[first]
        _, *deeper = prototypes.split([block.shape[1] for block in blocks], 1)
        for block, part, products in zip(blocks[1:], deeper, self.products, strict=True):
            images = block[first : first + self.together].flatten(2)
            cells = images.transpose(1, 2).reshape(-1, block.shape[1])
            torch.mm(cells, part.T, out=products[: len(cells)])

    def _weigh(self, image: int) -> None:
        """Write each pixel's scaled finest vector and resizing weights."""
        stack, tiling = self.stack, self.tiling
        scales = [scale[image].flatten()[tiling.pixels] for scale in stack.scales]
        vectors = torch.index_select(stack.blocks[0][image].flatten(1), 1, tiling.pixels)
        torch.mul(vectors, scales[0], out=self.factors[: len(vectors)])
        for rows, weights, scale in zip(self.deeper, tiling.weights, scales[1:], strict=True):
            torch.mul(weights, scale, out=self.factors[rows])


@dataclass(frozen=True)
class _Tiling:
    """A grid cut into tiles, and how each tile's pixels are resized from deeper cells.

    Attributes:
        bounds: Where each tile's pixels begin and the last one's end.
        pixels: Index tensor (P,), flat grid positions, tile by tile.
        positions: Index tensor (P,), its inverse.
        cells: A deeper block, index tensor (tiles, c) of the cells that each tile draws on.
        weights: A deeper block, float tensor (c, P) of each pixel's weights on these.
    """

    bounds: tuple[int, ...]
    pixels: Tensor
    positions: Tensor
    cells: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]


@lru_cache(maxsize=64)
def _tiling(
    grid: tuple[int, ...], deeper: tuple[tuple[int, ...], ...], pixels: int, dtype: torch.dtype
) -> _Tiling:
    """Cut a grid into tiles of at most ``pixels``, to draw on few cells of deeper grids."""
    steps = _steps(grid, pixels)
    cuts = [_cuts(grid[i], steps[i], [size[i] for size in deeper]) for i in range(len(grid))]
    intervals = [[slice(*ends) for ends in pairwise(side)] for side in cuts]
    tiles = list(itertools.product(*intervals))
    flat = torch.arange(math.prod(grid)).view(grid)
    members = [flat[tile].flatten() for tile in tiles]
    order = torch.cat(members)
    bounds = (0, *np.cumsum([len(part) for part in members]).tolist())
    cells, weights = [], []
    for size in deeper:
        pairs = zip(grid, size, strict=True)
        sides = [resize_matrix(new, old, dtype, torch.device("cpu")) for new, old in pairs]
        drawn = [_drawn([sides[i][part] for i, part in enumerate(tile)]) for tile in tiles]
        most = max(len(used) for used, _ in drawn)
        cells.append(torch.stack([_pad(used, most) for used, _ in drawn]))
        weights.append(torch.cat([_pad(part, most) for _, part in drawn], 1))
    return _Tiling(bounds, order, order.argsort(), tuple(cells), tuple(weights))


def _steps(grid: Sequence[int], pixels: int) -> list[int]:
    """Return the sides of a tile of at most so many pixels: even columns, then rows."""
    width = grid[-1]
    most = pixels if len(grid) == 1 else min(_TILE_WIDTH, pixels)
    steps = [-(-width // -(-width // most))]
    left = pixels // steps[0]
    for size in reversed(grid[:-1]):
        steps.append(max(1, left))
        left //= min(size, steps[-1])
    return steps[::-1]


def _drawn(sides: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the flat cells that a tile draws on and the weights (cells, pixels) on them.

    Args:
        sides: Along each side, the resizing matrix of the tile's positions.
    """
    cells, weights = torch.zeros(1, dtype=torch.int64), sides[0].new_ones(1, 1)
    for side in sides:
        used = side.any(0).nonzero().squeeze(1)
        cells = (cells[:, None] * side.shape[1] + used).flatten()
        weights = torch.kron(weights, side[:, used].contiguous())
    return cells, weights.T


def _pad(rows: Tensor, length: int) -> Tensor:
    """Append zeros: cell 0, which then has weight 0."""
    return torch.cat([rows, rows.new_zeros(length - len(rows), *rows.shape[1:])])


def _cuts(size: int, step: int, deeper: Sequence[int]) -> list[int]:
    """Return where to cut a side, so that the parts draw on the fewest deeper cells."""
    matrices = [resize_matrix(size, n, torch.float64, torch.device("cpu")) for n in deeper]

    def cost(first: int) -> int:
        cuts = _evenly(size, step, first)
        return sum(int(matrix[a:b].any(0).sum()) for matrix in matrices for a, b in pairwise(cuts))

    return _evenly(size, step, min(range(1, step + 1), key=lambda first: (cost(first), -first)))


def _evenly(size: int, step: int, first: int) -> list[int]:
    return [0, *range(min(first, size), size, step), size]
