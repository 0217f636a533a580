"""Stacked features of several layers (eqs. 6-8; not zennit's composite), never concatenated."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from captum_kmex.composite.nearest import nearest_at_once, nearest_by_tiles
from captum_kmex.composite.nearness import LogNearness
from captum_kmex.composite.packed import PackedPrototypes, prototype_offsets
from captum_kmex.composite.resizing import (
    neighbour_products,
    norm_from_products,
    resize,
    resize_keeping_mean,
    resized_at,
    transposed_resize,
)
from captum_kmex.grids import grid_of
from captum_kmex.scaling import unit_scale

__all__ = [
    "StackedBlocks",
    "resize",
    "resize_keeping_mean",
]

_FEWEST_PROTOTYPES = 16  # below, scores are as well (prototype, pixel)
_FEW_PROTOTYPES = 256  # up to here all images' scores are computed at once
_STRIP_SCORES = 2**18  # scores of one tile: 1 MiB, a core's cache
_SCORES_BYTES = 64 * 2**20  # scores of one chunk of prototypes


@dataclass(frozen=True)
class StackedBlocks:
    """Blocks l..L of one batch on the grid of the finest, each pixel's block vector unit norm.

    The composite row of pixel p is the concatenation of ``w_l * up(h_l)_p / |up(h_l)_p|``.
    Interpolation commutes with products, ``<up(h), p> = up(<h, p>)``, so blocks are multiplied
    at their own resolution and only the products are resized.

    Attributes:
        blocks: Float tensors ``(N, D_l, *grid_l)``, shallow to deep. Only directions count: each
            image's block is kept times a power of two that brings its largest value near 1.
        weights: One weight a block.
        is_scaled: The blocks are so already.

    Reference:
        Boubekki & Clemmensen (2026), eqs. 6-8.
    """

    blocks: tuple[Tensor, ...]
    weights: tuple[float, ...]
    is_scaled: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        if not self.is_scaled:
            blocks = tuple(block * unit_scale(block) for block in self.blocks)
            vars(self).update(blocks=blocks, is_scaled=True)

    @property
    def grid(self) -> tuple[int, ...]:
        """The grid of the shallowest block."""
        return grid_of(self.blocks[0])

    @property
    def width(self) -> int:
        """Composite width D, the sum of the blocks' channels."""
        return sum(block.shape[1] for block in self.blocks)

    def suffix(self, depth: int) -> StackedBlocks:
        """Return the composite of the blocks from ``depth`` on, their weights unchanged."""
        part = StackedBlocks(self.blocks[depth:], self.weights[depth:], is_scaled=True)
        # inner products of a block's cells do not depend on the grid: computed once for all
        vars(part)["_products"] = self._products[depth:]
        return part

    @cached_property
    def scales(self) -> tuple[Tensor, ...]:
        """Weight over norm of each block's resized vectors, ``(N, 1, *grid)`` a block."""
        return tuple(
            weight / norm.clamp_min(torch.finfo(norm.dtype).eps)
            for weight, norm in zip(self.weights, self._norms, strict=True)
        )

    @cached_property
    def _norms(self) -> tuple[Tensor, ...]:
        return tuple(products.norm(self.grid) for products in self._products)

    @cached_property
    def _products(self) -> tuple[_Products, ...]:
        return tuple(_Products(block) for block in self.blocks)

    @cached_property
    def squared_norms(self) -> Tensor:
        """Squared norm of the composite rows ``(N, *grid)``: sum of w_l^2 where none is zero."""
        pairs = zip(self.scales, self._norms, strict=True)
        return torch.stack([(scale * norm).square() for scale, norm in pairs]).sum(0).squeeze(1)

    @property
    def full_square(self) -> float:
        """Squared norm of a row none of whose blocks is zero."""
        return math.fsum(weight**2 for weight in self.weights)

    def scores(self, prototypes: Tensor) -> Tensor:
        """Return ``<z_p, p_k> - |p_k|^2 / 2`` ``(N, K, *grid)``, largest for the nearest.

        Args:
            prototypes: Float tensor (K, D), or (N, K, D) with its own prototypes an image.
        """
        total = prototype_offsets(prototypes)[(..., *[None] * len(self.grid))]
        widths = [block.shape[1] for block in self.blocks]
        parts = prototypes.split(widths, -1)
        for part, block, scale in zip(parts, self.blocks, self.scales, strict=True):
            products = torch.matmul(part, block.flatten(2)).unflatten(2, block.shape[2:])
            total = total + resize(products, self.grid) * scale
        return total

    def nearest(self, prototypes: Tensor | PackedPrototypes) -> tuple[Tensor, Tensor]:
        """Return each pixel's nearest prototype (eq. 9) and its squared distance.

        Args:
            prototypes: Float tensor (K, D), or (N, K, D) with its own prototypes an image.

        Returns:
            Index tensor ``(N, *grid)``, lowest index at ties, and float tensor ``(N, *grid)``.
            Memory does not grow with K.
        """
        best, index = self.best(prototypes)
        return index, self.distances(best)

    def distances(self, best: Tensor) -> Tensor:
        """Return squared distances ``(N, *grid)`` to the prototypes that have these scores."""
        return (self.squared_norms - 2 * best).clamp_min(0)

    def best(
        self, prototypes: Tensor | PackedPrototypes, nearness: LogNearness | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return each pixel's best score and its prototype, both ``(N, *grid)``.

        Args:
            prototypes: As in ``nearest``, which finds the distances too.
            nearness: What collects the scores for a vote, on the way.
        """
        if isinstance(prototypes, Tensor):
            prototypes = PackedPrototypes(prototypes)
        if self.blocks[0].device.type == "cpu":
            if prototypes.count > _FEW_PROTOTYPES:
                return nearest_by_tiles(self, prototypes, _STRIP_SCORES, nearness)
            if _FEWEST_PROTOTYPES <= prototypes.count <= self._together():
                return nearest_at_once(self, prototypes, nearness)
        return self._nearest_by_chunks(prototypes, nearness)

    def nearness_to(self, prototypes: PackedPrototypes) -> LogNearness:
        """Return what ``best`` fills: how near each image comes to each class.

        Raises:
            ValueError: The prototypes do not stand class by class.
        """
        if prototypes.runs is None:
            raise ValueError("a vote by distance needs prototypes that stand class by class")
        return LogNearness(prototypes.runs, self.squared_norms.flatten(1), self.full_square)

    def _together(self) -> int:
        """Return how many prototypes' scores are computed at once."""
        return max(1, _SCORES_BYTES // (4 * len(self.blocks[0]) * math.prod(self.grid)))

    def _nearest_by_chunks(
        self, prototypes: PackedPrototypes, nearness: LogNearness | None
    ) -> tuple[Tensor, Tensor]:
        """Return best scores and indices, some prototypes of all images at a time."""
        best = self.squared_norms.new_full((len(self.blocks[0]), *self.grid), -torch.inf)
        index = torch.zeros_like(best, dtype=torch.int64)
        for chunk in prototypes.chunks(self._together()):
            scores = self.scores(prototypes.values[..., chunk.prototypes, :])
            if nearness is not None:
                nearness.add(scores.flatten(2), chunk, slice(None), dim=1)
            values, found = scores.max(1)
            better = values > best
            best = torch.where(better, values, best)
            index = torch.where(better, found + chunk.prototypes.start, index)
        return best, index

    @property
    def masses(self) -> None:
        """``None``: all rows have the same norm, none is far out."""

    def select(self, images: Tensor) -> StackedBlocks:
        """Return the composite of chosen images."""
        blocks = tuple(block[images] for block in self.blocks)
        return StackedBlocks(blocks, self.weights, is_scaled=True)

    def rows(self, images: Tensor, pixels: Tensor) -> Tensor:
        """Return composite rows (M, D) of chosen pixels; only these are interpolated.

        Args:
            images: Index tensor (M,) into the batch.
            pixels: Index tensor (M,) into the flattened grid.
        """
        places = torch.unravel_index(pixels, self.grid)
        parts = []
        for block, weight in zip(self.blocks, self.weights, strict=True):
            vectors = resized_at(block, self.grid, images, *places)
            norm = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
            parts.append(vectors.mul_(weight / norm.clamp_min(torch.finfo(norm.dtype).eps)))
        return torch.cat(parts, 1)

    def sums(self, membership: Tensor) -> Tensor:
        """Return the sums of the rows of each cluster (N, K, D), by transposed resizing.

        Args:
            membership: Float tensor ``(N, K, *grid)``, 1 where a pixel belongs to a cluster.
        """
        parts = []
        for block, scale in zip(self.blocks, self.scales, strict=True):
            weighted = transposed_resize(membership * scale, grid_of(block))
            parts.append(torch.matmul(weighted.flatten(2), block.flatten(2).transpose(1, 2)))
        return torch.cat(parts, 2)


class _Products:
    """A block's inner products, computed when first asked for."""

    def __init__(self, block: Tensor) -> None:
        self._block = block

    def norm(self, grid: tuple[int, ...]) -> Tensor:
        """Return the norms of the resized vectors ``(N, 1, *grid)``."""
        if self._block.shape[2:] == grid:
            return self._squares.sqrt().unsqueeze(1)
        return norm_from_products(self._neighbours, grid)

    @cached_property
    def _squares(self) -> Tensor:
        return self._block.square().sum(1)

    @cached_property
    def _neighbours(self) -> Tensor:
        return neighbour_products(self._block)
