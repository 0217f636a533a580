"""Prototypes class by class: the best score of each class, and each class's own prototypes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from captum_kmex.bank.codebook import Codebook

__all__ = ["ClassChunk", "ClassPrototypes", "ClassRuns", "best_by_class"]


def best_by_class(scores: Tensor, classes: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Return each class's highest score, minus infinity where it has none, and whose it is.

    Args:
        scores: Float tensor (N, K), one a prototype.
        classes: Class of each prototype, integer tensor (K,), in any order.
        n_classes: C.

    Returns:
        Float tensor (N, C), and index tensor (N, C) into the prototypes: the first of equals, 0
        for a class without any.
    """
    shape = (scores.shape[0], n_classes)  # len() would fix the batch in an export
    owner = classes.to(scores.device).expand_as(scores)
    best = scores.new_full(shape, -torch.inf).scatter_reduce(1, owner, scores, "amax")
    count = scores.shape[1]
    places = torch.arange(count, device=scores.device).expand_as(scores)
    places = places.masked_fill(scores != best.gather(1, owner), count)
    first = places.new_full(shape, count).scatter_reduce(1, owner, places, "amin")
    return best, first.masked_fill(first == count, 0)


@dataclass(frozen=True)
class ClassRuns:
    """Prototypes in the order of a codebook: fits leave them class by class.

    Attributes:
        classes: Class of each run of prototypes, integer tensor (G,), in their order.
        sizes: Prototypes of each.
    """

    classes: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, membership: Tensor) -> ClassRuns:
        """Return the runs of a membership (K,)."""
        classes, sizes = torch.unique_consecutive(membership, return_counts=True)
        return cls(classes, tuple(sizes.tolist()))

    @property
    def is_by_class(self) -> bool:
        """Whether each class's prototypes stand together."""
        return len(self.classes.unique()) == len(self.sizes)

    def chunks(self, most: int) -> list[ClassChunk]:
        """Return the prototypes in parts of whole classes, at most ``most`` or one class each."""
        bounds = [0]  # runs with which chunks begin
        starts = list(accumulate(self.sizes, initial=0))
        for run in range(1, len(self.sizes)):
            if starts[run + 1] - starts[bounds[-1]] > most:
                bounds.append(run)
        return [
            ClassChunk(slice(starts[a], starts[b]), slice(a, b), self.sizes[a:b])
            for a, b in pairwise([*bounds, len(self.sizes)])
        ]


@dataclass(frozen=True)
class ClassChunk:
    """Some classes of ``ClassRuns``.

    Attributes:
        prototypes: Where their prototypes stand, from a first to a last.
        runs: Where the classes stand among the runs.
        sizes: Prototypes of each.
    """

    prototypes: slice
    runs: slice
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of prototypes."""
        return sum(self.sizes)

    def best(self, scores: Tensor, dim: int) -> Tensor:
        """Return the highest score of each class, (..., k) -> (..., g).

        Args:
            scores: Float tensor, the chunk's k prototypes along ``dim``.
            dim: 1, or 2, the last one.
        """
        if len(self._alike) == 1:
            return _best_of_equal(scores, self.sizes[0], dim)
        found = [
            _best_of_equal(scores.index_select(dim, own.to(scores.device)), size, dim)
            for size, own in self._alike.items()
        ]
        return torch.cat(found, dim).index_select(dim, self._places.to(scores.device))

    @cached_property
    def _alike(self) -> dict[int, Tensor]:
        """The prototypes of all classes that have as many, by their number."""
        sizes = torch.tensor(self.sizes)
        own = sizes.repeat_interleave(sizes)
        return {size: (own == size).nonzero().squeeze(1) for size in sorted(set(self.sizes))}

    @cached_property
    def _places(self) -> Tensor:
        """Where each class stands when they are sorted by their number of prototypes."""
        return torch.tensor(self.sizes).argsort(stable=True).argsort()


def _best_of_equal(scores: Tensor, size: int, dim: int) -> Tensor:
    is_last = dim == 2 and scores.device.type == "cpu"  # there three times faster than amax
    best: Tensor = (
        F.max_pool1d(scores, size) if is_last else scores.unflatten(dim, (-1, size)).amax(dim + 1)
    )
    return best


@dataclass(frozen=True)
class ClassPrototypes:
    """The prototypes of C classes side by side, for passes in which an image's own compete.

    Attributes:
        centroids: Float tensor (C, K, D), padded to the largest class: one with fewer prototypes
            repeats its first.
        owner: Integer tensor (C, K), each one's index in the codebook; -1 for padding.
    """

    centroids: Tensor
    owner: Tensor

    @classmethod
    def of(cls, book: Codebook) -> ClassPrototypes:
        """Group the prototypes of a codebook by class; of a class-agnostic one, all in group 0."""
        device = book.centroids.device
        classes = torch.zeros_like(book.counts) if book.is_agnostic else book.membership
        classes = classes.to(device)
        sizes = torch.bincount(classes)
        owner = torch.full((len(sizes), int(sizes.max())), -1, device=device)
        order = classes.argsort(stable=True)
        first = sizes.cumsum(0) - sizes
        rank = torch.arange(len(order), device=device) - first[classes[order]]
        owner[classes[order], rank] = order
        filled = torch.where(owner < 0, owner[:, :1], owner).clamp_min(0)
        return cls(book.centroids[filled], owner)

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def count(self) -> int:
        """Most prototypes K of a class."""
        return self.owner.shape[1]

    def known(self, classes: Tensor) -> Tensor:
        """Return the positions (M,) of classes that have prototypes."""
        has_any = torch.zeros_like(classes, dtype=torch.bool)
        inside = classes < len(self)
        has_any[inside] = self.owner[classes[inside], 0] >= 0
        return has_any.nonzero().squeeze(1)

    def chunks(self, classes: Tensor, n_pixels: int, budget: int) -> Iterator[Tensor]:
        """Return the positions of known classes, a few at a time.

        Args:
            classes: Integer tensor (M,), one an image.
            n_pixels: Pixels of an image.
            budget: Most scores at once, one a pixel and prototype.
        """
        size = max(1, budget // (n_pixels * self.count))
        yield from self.known(classes).split(size)
