"""Speckle: pieces of segments too small to be anything, given to the segments around them."""

from __future__ import annotations

from collections import Counter
from heapq import heapify, heappop, heappush

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_kmex.explaining.segments import connected_segments

__all__ = ["without_speckle"]


def without_speckle(segments: Tensor, min_area: int) -> Tensor:
    """Give each connected piece of too few cells to the segment that surrounds it most.

    The smallest piece goes first; of equal ones, that which begins first, row by row. It goes to
    the segment with which it shares the longest border, of equal ones to that of the lowest
    number, and is one piece with what it touches of it. This goes on until no piece is too
    small, or the image is one piece.

    Args:
        segments: Index tensor ``(N, *grid)``.
        min_area: Fewest cells of a piece; 1 changes nothing.

    Returns:
        Index tensor ``(N, *grid)``; numbers stay what they stand for.
    """
    if min_area <= 1:
        return segments
    numbered, owners = connected_segments(segments)
    cleaned = []
    for image, own in zip(numbered.cpu().numpy(), owners, strict=True):
        pieces = _Pieces(image, own.tolist())
        pieces.join_smaller_than(min_area)
        cleaned.append(torch.tensor(pieces.owners(), dtype=segments.dtype)[torch.from_numpy(image)])
    return torch.stack(cleaned).to(segments.device)


class _Pieces:
    """The pieces of one image and which of them touch.

    Args:
        numbered: Piece of each cell ``(*grid)``, from 0 without gaps.
        owners: Segment of each piece.
    """

    def __init__(self, numbered: NDArray[np.int64], owners: list[int]) -> None:
        _, first, areas = np.unique(numbered, return_index=True, return_counts=True)
        self.owner, self.first, self.area = owners, first.tolist(), areas.tolist()
        self.host = list(range(len(owners)))  # the piece that each has been joined to
        self.sides = _sides(numbered, len(owners))

    def owners(self) -> list[int]:
        """Return the segment of each piece as first numbered."""
        return [self.owner[self._last_host(piece)] for piece in range(len(self.host))]

    def join_smaller_than(self, min_area: int) -> None:
        """Join pieces, the smallest first, until none is too small or there is one."""
        queue = [(area, self.first[p], p) for p, area in enumerate(self.area) if area < min_area]
        heapify(queue)
        while queue:
            area, _, piece = heappop(queue)
            if area != self.area[piece] or not self.sides[piece]:  # it grew or went, or is all
                continue
            host = self._join(piece)
            if self.area[host] < min_area:
                heappush(queue, (self.area[host], self.first[host], host))

    def _join(self, piece: int) -> int:
        """Join a piece to what it touches of the segment it borders on most."""
        shared: Counter[int] = Counter()
        for other, length in self.sides[piece].items():
            shared[self.owner[other]] += length
        owner = min(shared, key=lambda segment: (-shared[segment], segment))
        touched = [other for other in self.sides[piece] if self.owner[other] == owner]
        host = max(touched, key=lambda other: len(self.sides[other]))  # the least work
        for part in (piece, *(other for other in touched if other != host)):
            self._absorb(part, host)
        return host

    def _absorb(self, part: int, host: int) -> None:
        self.area[host] += self.area[part]
        self.first[host] = min(self.first[host], self.first[part])
        self.area[part], self.host[part] = 0, host
        for other, length in self.sides[part].items():
            del self.sides[other][part]
            if other != host:
                self.sides[other][host] += length
                self.sides[host][other] += length

    def _last_host(self, piece: int) -> int:
        while self.host[piece] != piece:
            piece = self.host[piece]
        return piece


def _sides(numbered: NDArray[np.int64], count: int) -> list[Counter[int]]:
    """Return, for each piece, how many sides of cells it shares with each other one."""
    along = (np.moveaxis(numbered, axis, 0) for axis in range(numbered.ndim))
    pairs = np.concatenate([np.stack([one[:-1], one[1:]], -1).reshape(-1, 2) for one in along])
    borders = pairs[pairs[:, 0] != pairs[:, 1]]
    pairs, lengths = np.unique(borders, axis=0, return_counts=True)
    sides: list[Counter[int]] = [Counter() for _ in range(count)]
    for (a, b), length in zip(pairs.tolist(), lengths.tolist(), strict=True):
        sides[a][b] += length
        sides[b][a] += length
    return sides
