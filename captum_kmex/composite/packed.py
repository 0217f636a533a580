"""Prototypes with what every assignment to them needs, computed once for a codebook."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from captum_kmex.composite.by_class import ClassChunk, ClassRuns

if TYPE_CHECKING:
    from captum_kmex.bank.codebook import Codebook

__all__ = ["PackedPrototypes", "packed_prototypes", "prototype_offsets"]

_KEPT_BYTES = 10 * 2**20  # of one codebook, beside its prototypes


@dataclass(frozen=True)
class PackedPrototypes:
    """Prototypes and what is derived from them alone.

    Attributes:
        values: Float tensor (K, D), or (N, K, D) with its own prototypes an image.
        runs: Their classes, where each class's prototypes stand together.
    """

    values: Tensor
    runs: ClassRuns | None = None
    _finest: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)
    _chunks: dict[int, list[ClassChunk]] = field(default_factory=dict, init=False, repr=False)

    @property
    def count(self) -> int:
        """Number of prototypes K."""
        return self.values.shape[-2]

    def chunks(self, most: int) -> list[ClassChunk]:
        """Return the prototypes in parts of at most ``most``, of whole classes where known.

        They are the same whether or not classes are compared, and so are their scores.
        """
        if most not in self._chunks:
            runs = self.runs or ClassRuns.of(torch.arange(self.count))
            self._chunks[most] = runs.chunks(most)
        return self._chunks[most]

    @cached_property
    def offsets(self) -> Tensor:
        """``-|p|^2 / 2``, float tensor (K,) or (N, K)."""
        return prototype_offsets(self.values)

    def finest(self, width: int) -> Tensor:
        """Return the first ``width`` columns and the offsets as rows (..., width + 1, K).

        They are kept where they are small; 20 MiB in all is what a bank may take.
        """
        if width in self._finest:
            return self._finest[width]
        rows = torch.cat([self.values[..., :width].mT, self.offsets.unsqueeze(-2)], -2)
        if rows.nbytes <= _KEPT_BYTES:
            self._finest[width] = rows
        return rows


def prototype_offsets(prototypes: Tensor) -> Tensor:
    """Return ``-|p|^2 / 2`` (..., K), what a prototype's length takes from its scores."""
    return -0.5 * prototypes.square().sum(-1)


def _runs(book: Codebook) -> ClassRuns | None:
    runs = None if book.is_agnostic else ClassRuns.of(book.membership)
    return runs if runs is not None and runs.is_by_class else None


_Packed = dict[object, tuple[object, PackedPrototypes]]
_kept: WeakKeyDictionary[Codebook, _Packed] = WeakKeyDictionary()


def packed_prototypes(book: Codebook, like: Tensor) -> PackedPrototypes:
    """Return a codebook's prototypes with the dtype and on the device of ``like``.

    They are kept while the codebook lives, outside of it: it stays plain data.
    """
    key = (like.device, like.dtype)
    # writing into the prototypes counts a version up; inference tensors cannot be written to
    parts = (book.centroids, book.membership)
    version = tuple(None if part.is_inference() else part._version for part in parts)
    known = _kept.setdefault(book, {})
    if key not in known or known[key][0] != version:
        known[key] = (version, PackedPrototypes(book.centroids.to(like), _runs(book)))
    return known[key][1]
