"""A bounded, seeded, mergeable sample of feature vectors for each class."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ClassSample", "row_keys"]

SLACK = 1.25  # a class holds at most this much of its capacity between two prunings


def row_keys(seed: int, indices: Tensor, n_pixels: int) -> Tensor:
    """Return a pseudo-random key (N, P) for each pixel of each image.

    A key depends on the seed, the image's index and the pixel alone, so a sample of the
    smallest keys is the same whatever the batches, their order and the number of machines.

    Args:
        seed: Any integer.
        indices: Index tensor (N,), the images' positions in the data set.
        n_pixels: Pixels P of an image.

    Reference:
        Steele et al., SplitMix64 (2014); Cohen & Kaplan, bottom-k sketches (2007).
    """
    pixels = torch.arange(n_pixels, device=indices.device)
    images = _mix(indices + _mix(torch.full_like(indices, seed)))
    return _mix(images[:, None] + pixels) & 0x7FFF_FFFF_FFFF_FFFF


def _mix(x: Tensor) -> Tensor:
    x = x + -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
    x = (x ^ _right(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _right(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _right(x, 31)


def _right(x: Tensor, bits: int) -> Tensor:
    """Shift right without carrying the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


class ClassSample:
    """A uniform sample of at most ``capacity`` rows of each class, in one pass.

    It keeps the rows with the smallest keys, so samples of two halves merge into the sample
    of the whole, and the memory does not depend on how many rows are offered.

    Args:
        n_classes: Number of classes C.
        capacity: Most rows kept of one class.

    Attributes:
        seen: Integer tensor (C,), rows of each class offered so far; the caller counts.
    """

    def __init__(self, n_classes: int, capacity: int) -> None:
        self.capacity = capacity
        self.seen = torch.zeros(n_classes, dtype=torch.int64)
        self._keys: list[list[Tensor]] = [[] for _ in range(n_classes)]
        self._rows: list[list[Tensor]] = [[] for _ in range(n_classes)]
        self._tags: list[list[Tensor]] = [[] for _ in range(n_classes)]
        self._threshold = torch.full((n_classes,), torch.iinfo(torch.int64).max)

    def candidates(self, keys: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the offered pixels that can still enter the sample of their class.

        Args:
            keys: Integer tensor (N, P).
            classes: Integer tensor (N,).

        Returns:
            Two index tensors (M,), into N and into P; at most ``capacity`` a class.
        """
        below = keys < self._threshold.to(keys.device)[classes].unsqueeze(1)
        rows, pixels = below.nonzero(as_tuple=True)
        if len(rows) <= self.capacity:
            return rows, pixels
        order = keys[rows, pixels].argsort()
        order = order[classes[rows[order]].argsort(stable=True)]
        owner = classes[rows[order]]
        first = torch.searchsorted(owner, owner)  # where its class begins
        rank = torch.arange(len(order), device=order.device) - first
        kept = order[rank < self.capacity].sort().values
        return rows[kept], pixels[kept]

    def add(self, rows: Tensor, keys: Tensor, classes: Tensor, tags: Tensor) -> None:
        """Offer candidate rows.

        Args:
            rows: Float tensor (M, D).
            keys: Integer tensor (M,).
            classes: Integer tensor (M,), the sample each row belongs to.
            tags: Integer tensor (M,), kept beside each row.
        """
        for c in classes.unique().tolist():
            chosen = classes == c
            self._rows[c].append(rows[chosen])
            self._keys[c].append(keys[chosen])
            self._tags[c].append(tags[chosen])
            if sum(map(len, self._keys[c])) > SLACK * self.capacity:
                self._prune(c)

    def merge(self, other: ClassSample) -> None:
        """Take in another sample of the same classes, seed and capacity.

        Raises:
            ValueError: The two differ in classes or capacity.
        """
        if len(other.seen) != len(self.seen) or other.capacity != self.capacity:
            raise ValueError(
                f"samples of {len(self.seen)} classes x {self.capacity} rows and "
                f"{len(other.seen)} x {other.capacity} cannot merge; fit both alike"
            )
        self.seen += other.seen
        for c in range(len(self.seen)):
            self._rows[c] += other._rows[c]
            self._keys[c] += other._keys[c]
            self._tags[c] += other._tags[c]
            self._prune(c)

    def rows(self, c: int) -> tuple[Tensor, Tensor]:
        """Return the rows kept of a class (M, D) and their tags (M,), in key order."""
        self._prune(c)
        order = self._keys[c][0].argsort(stable=True)
        return self._rows[c][0][order], self._tags[c][0][order]

    def kept(self, c: int) -> int:
        """Return the number of rows kept of a class."""
        return min(self.capacity, sum(map(len, self._keys[c])))

    def _prune(self, c: int) -> None:
        if not self._keys[c]:
            return
        keys, rows, tags = (torch.cat(x[c]) for x in (self._keys, self._rows, self._tags))
        if len(keys) > self.capacity:
            keys, kept = keys.topk(self.capacity, largest=False, sorted=False)
            rows, tags = rows[kept], tags[kept]
        self._keys[c], self._rows[c], self._tags[c] = [keys], [rows], [tags]
        if len(keys) == self.capacity:
            self._threshold[c] = keys.max()
