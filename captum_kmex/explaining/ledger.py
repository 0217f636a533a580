"""The ledger: what each segment of an image adds to the logit, and what it stands for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_kmex.bank.prototype_bank import Codebook
from captum_kmex.bank.representatives import Representatives
from captum_kmex.explaining.segments import segment_sums

__all__ = ["SURE", "LedgerRow", "Patch", "build_ledger", "patches_of"]

SURE = 1.645  # standard deviations on either side, that hold nine in ten


@dataclass(frozen=True)
class Patch:
    """A training patch near a prototype.

    Attributes:
        index: Position of the image in the training set.
        box: x0, y0, x1, y1 in input pixels; of a signal its two ends, of a volume x0, y0, z0, x1,
            y1, z1.
        distance: Distance to the prototype, in the prototypes' space.
    """

    index: int
    box: tuple[int, ...]
    distance: float


@dataclass(frozen=True)
class LedgerRow:
    """One line of the account: a segment, what it stands for and what it adds.

    Attributes:
        segment: Id in the segment map; of segments from outside, their own number.
        prototype: Index in the bank, or the image's own cluster if unfitted; of segments from
            outside, which stand for none, their own number again.
        class_index: Class of the prototype; ``None`` if there is none; the most frequent class
            of a class-agnostic prototype, if the model of the fit had logits.
        area: Share of the grid, 0 to 1.
        evidence: Sum of the map over the segment, in logit units.
        representatives: Nearest training patches of the prototype.
        removed: Of measured evidence, what the output loses when the segment alone is removed.
        kept: What it has above the baseline when the segment alone is kept.
        error: Standard deviation of the evidence.
        ties: Segments whose evidence cannot be told from this one's.
        prototype_number: What the prototype is shown by, "class #1": its number from 1 among
            those of its class, or among all if it is class-agnostic; ``None`` if there is none.
    """

    segment: int
    prototype: int
    class_index: int | None
    area: float
    evidence: float
    representatives: tuple[Patch, ...] = ()
    removed: float | None = None
    kept: float | None = None
    error: float | None = None
    ties: tuple[int, ...] = ()
    prototype_number: int | None = None

    @property
    def is_clear(self) -> bool | None:
        """Whether measured evidence can be told from none (90 %); ``None`` if allocated."""
        return None if self.error is None else abs(self.evidence) > SURE * self.error


def build_ledger(
    maps: Tensor,
    segments: Tensor,
    prototypes: Tensor,
    book: Codebook | None,
    has_classes: bool = True,
) -> tuple[tuple[LedgerRow, ...], ...]:
    """Return the rows of each image, largest absolute evidence first.

    Args:
        maps: Float tensor ``(N, 1, *grid)``, in logit units.
        segments: Index tensor ``(N, *grid)``.
        prototypes: Prototype of each segment (N, S).
        book: The codebook, if fitted.
        has_classes: Its prototypes stand for classes, or have votes for some.
    """
    count = prototypes.shape[1]
    maps, segments = maps.cpu().double(), segments.cpu()  # not every device has float64
    sums = segment_sums(maps, segments, count)
    areas = segment_sums(torch.ones_like(maps), segments, count)
    cells = segments[0].numel()
    owners = book.owners.tolist() if book is not None and has_classes else None
    numbers = None if book is None else book.numbers.tolist()
    found = None if book is None else book.representatives
    ledgers = []
    for i in range(len(segments)):
        present = areas[i].nonzero().squeeze(1)
        order = present[sums[i, present].abs().argsort(descending=True, stable=True)]
        own = prototypes[i, order.to(prototypes.device)]
        patches = [()] * len(own) if found is None else _patches(found, own)
        shares, evidence = (areas[i, order] / cells).tolist(), sums[i, order].tolist()
        rows = [
            LedgerRow(
                segment,
                prototype,
                None if owners is None else owners[prototype],
                share,
                value,
                near,
                prototype_number=None if numbers is None else numbers[prototype],
            )
            for segment, prototype, share, value, near in zip(
                order.tolist(), own.tolist(), shares, evidence, patches, strict=True
            )
        ]
        ledgers.append(tuple(rows))
    return tuple(ledgers)


def patches_of(found: Representatives, prototype: int) -> tuple[Patch, ...]:
    """Return the training patches of a prototype, nearest first."""
    return _patches(found, torch.tensor([prototype]))[0]


def _patches(found: Representatives, prototypes: Tensor) -> list[tuple[Patch, ...]]:
    """Return the training patches of some prototypes (M,), read at once."""
    own = prototypes.to(found.indices.device)
    parts = (found.indices[own], found.boxes[own], found.distances[own])
    return [
        tuple(
            Patch(index, tuple(box), far)
            for index, box, far in zip(*of_one, strict=True)
            if index >= 0
        )
        for of_one in zip(*(part.tolist() for part in parts), strict=True)
    ]
