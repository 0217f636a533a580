"""Prototypes of the report, class by class: usage, purity, nearest neighbours and patches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_kmex.bank.prototype_bank import Codebook, PrototypeBank
from captum_kmex.report.patches import PatchPictures
from captum_kmex.report.tally import Tally

__all__ = ["Neighbours", "group_of", "group_records", "purity"]

_CHUNK = 2**24  # distances at once


@dataclass(frozen=True)
class Neighbours:
    """The nearest prototype of another class of each prototype.

    Attributes:
        index: Integer tensor (K,).
        distance: Float tensor (K,); inf where there is no other class.
    """

    index: Tensor
    distance: Tensor

    @classmethod
    def of(cls, book: Codebook) -> Neighbours:
        """Find them; a class-agnostic codebook has none."""
        centroids = book.centroids.cpu().float()
        count, groups = len(centroids), group_of(book)
        index, distance = torch.zeros(count, dtype=torch.int64), torch.full((count,), torch.inf)
        for rows in torch.arange(count).split(max(1, _CHUNK // count)):
            far = torch.cdist(centroids[rows], centroids)
            far[groups[rows, None] == groups] = torch.inf
            distance[rows], index[rows] = far.min(1)
        return cls(index, distance)


def group_of(book: Codebook) -> Tensor:
    """Return the section of each prototype (K,): its class, or 0 for all without classes."""
    if book.is_agnostic:
        return torch.zeros(len(book.membership), dtype=torch.int64)
    return book.membership.cpu()


def purity(won: Tensor, book: Codebook) -> Tensor:
    """Return the share of each prototype's pixels that lie in images of its class (K,).

    Without classes: of the class that has most of them. NaN where it wins no pixel.

    Args:
        won: Pixels by prototype and class (K, J).
        book: The prototypes.
    """
    total = won.sum(1).double()
    own = won.max(1).values
    if not book.is_agnostic:
        own = won.gather(1, book.membership.cpu().long().unsqueeze(1)).squeeze(1)
    return own / total  # 0 / 0 is NaN


def group_records(
    bank: PrototypeBank, tally: Tally, pictures: PatchPictures
) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield each section and its prototypes at every depth, fit for JSON.

    Args:
        bank: The fitted prototypes.
        tally: What was counted over all images.
        pictures: Of the nearest training patches.
    """
    facts = [_facts(book, tally, depth) for depth, book in enumerate(bank.codebooks)]
    groups = [group_of(book) for book in bank.codebooks]
    for group in groups[0].unique().tolist():
        members = [(owner == group).nonzero().squeeze(1).tolist() for owner in groups]
        shown = pictures.section(members)
        depths = [
            [facts[depth][k] | {"patches": shown.patches[depth][k]} for k in mine]
            for depth, mine in enumerate(members)
        ]
        yield group, {"depths": depths, "pictures": shown.pictures}


def _facts(book: Codebook, tally: Tally, depth: int) -> list[dict[str, object]]:
    """Return what is known of each prototype but for its patches."""
    won, clean, near = tally.won[depth], purity(tally.won[depth], book), Neighbours.of(book)
    shares, images = tally.best[depth]
    usage = won.sum(1).double() / max(1, tally.cells[depth])
    radius = book.spread.cpu().double().clamp_min(0).sqrt()
    facts: list[dict[str, object]] = []
    for k in range(len(won)):
        best = zip(images[k].tolist(), shares[k].tolist(), strict=True)
        fact: dict[str, object] = {
            "index": k,
            "rows": int(book.counts[k]),
            "radius": round(float(radius[k]), 4),
            "usage": round(float(usage[k]), 6),
            "images": int(tally.n_images[depth][k]),
            "purity": None if clean[k].isnan() else round(float(clean[k]), 4),
            "best": [[image, round(share, 4)] for image, share in best if image >= 0],
        }
        if near.distance[k].isfinite():
            fact["near"] = [int(near.index[k]), round(float(near.distance[k]), 4)]
        if book.is_agnostic:
            fact["classes"] = _histogram(book.membership[k].cpu())
        facts.append(fact)
    return facts


def _histogram(shares: Tensor) -> list[list[float]]:
    """Return the three most frequent classes of a class-agnostic prototype."""
    top = shares.topk(min(3, len(shares)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [[c, round(share, 4)] for c, share in pairs if share > 0]
