"""A bounded, seeded, mergeable sample of feature vectors for each class, tails included."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from captum_kmex.bank.tensor_kinds import FLOAT, INTEGER, TensorKind
from captum_kmex.fitting.places import check_places
from captum_kmex.fitting.sampled_rows import RowBuffer, SampledRows
from captum_kmex.fitting.state import State, added, from_all, least, sent_to_owner

__all__ = ["SLACK", "ClassSample", "row_keys"]

SLACK = 1.25  # a class holds at most this much of its capacity between two prunings
_RANGE = float(2**63)  # keys are integers below this
_UNLIMITED = 1e30  # for infinity, which times no mass is no number
_CPU = torch.device("cpu")


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


class ClassSample(State):
    """A sample of at most ``capacity`` rows of each class, in one pass.

    A uniform sample keeps the rows with the smallest keys. Given masses, half the capacity
    goes to the rows with the smallest second key over mass, so that rare far rows are not
    missed, and the rest to the smallest keys of the others. Either way the samples of two
    machines join to the sample of the whole, and memory does not depend on how many rows are
    offered.

    Args:
        n_classes: Number of classes C.
        capacity: Most rows kept of one class.
        is_weighted: Rows come with masses.
        n_tags: The rows' tags are below.
        keeps_places: Rows come with their places.
        device: Where saved rows go.

    Attributes:
        seen: Integer tensor (C,), rows of each class offered so far; the caller counts.
        key_limits: Integer tensor (C,), key from which on no row of a class can enter.
        ratio_limits: Float tensor (C,), the same for the second key over mass.

    Reference:
        Cohen & Kaplan, bottom-k sketches (2007); Cohen, "Multi-Objective Weighted Sampling"
        (2015); Bachem et al., lightweight coresets (2018), for mixing both samples.
    """

    seen: Tensor
    key_limits: Tensor
    ratio_limits: Tensor

    def __init__(
        self,
        n_classes: int,
        capacity: int,
        is_weighted: bool = False,
        *,
        n_tags: int = 2**31,
        keeps_places: bool = False,
        device: torch.device = _CPU,
    ) -> None:
        super().__init__()
        self.capacity, self.is_weighted = capacity, is_weighted
        self._keeps_places = keeps_places
        self._n_tags, self._device = n_tags, device
        room = max(capacity + 1, int(SLACK * capacity))
        self._buffers = [RowBuffer(room) for _ in range(n_classes)]
        a_class = TensorKind(INTEGER, (n_classes,), 0)
        of_class = TensorKind(FLOAT, (n_classes,), 0, takes_infinity=True)
        limits = torch.full((n_classes,), torch.iinfo(torch.int64).max)
        self.declare("seen", torch.zeros_like(limits), a_class, added)
        self.declare("key_limits", limits, a_class, least)
        self.declare("ratio_limits", torch.full((n_classes,), torch.inf), of_class, least)

    def candidates(
        self, keys: Tensor, classes: Tensor, masses: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the offered pixels that can still enter the sample of their class.

        Args:
            keys: Integer tensor (N, P).
            classes: Integer tensor (N,).
            masses: Float tensor (N, P), for a weighted sample.

        Returns:
            Two index tensors (M,), into N and into P; of a uniform sample at most
            ``capacity`` a class.
        """
        below = keys < self.key_limits.to(keys.device)[classes].unsqueeze(1)
        if masses is not None:
            limits = self.ratio_limits.to(masses)[classes].unsqueeze(1)
            below |= _ratios(keys, masses) < limits
        rows, pixels = below.nonzero(as_tuple=True)
        if len(rows) <= self.capacity or masses is not None:
            return rows, pixels
        order = keys[rows, pixels].argsort()
        order = order[classes[rows[order]].argsort(stable=True)]
        owner = classes[rows[order]]
        first = torch.searchsorted(owner, owner)  # where its class begins
        rank = torch.arange(len(order), device=order.device) - first
        kept = order[rank < self.capacity].sort().values
        return rows[kept], pixels[kept]

    def add(self, offered: SampledRows, classes: Tensor) -> None:
        """Offer candidate rows of the classes (M,)."""
        for c in classes.unique().tolist():
            self._take(c, offered.at(classes == c))

    def kept(self, c: int) -> int:
        """Return the number of rows kept of a class, on this machine."""
        self._prune(c)
        return len(self._buffers[c])

    def kept_by_all(self) -> tuple[int, ...]:
        """Return the rows kept of each class, on whatever machine."""
        kept = torch.tensor([self.kept(c) for c in range(len(self.seen))], dtype=torch.int64)
        return tuple(from_all(kept, added).tolist())

    def rows(self, c: int) -> tuple[SampledRows, Tensor | None]:
        """Return the rows kept of a class, in key order, and their weights (M,).

        The weight is one over a row's chance to be kept; ``None`` where all are alike.

        Raises:
            ValueError: There are none.
        """
        kept = self._pruned(c)
        if kept is None:
            raise ValueError(f"the sample has no rows of class {c}")
        kept = kept.at(kept.keys.argsort(stable=True))
        if not self.is_weighted:
            return kept, None
        by_key = float(self.key_limits[c]) / _RANGE
        limit = float(self.ratio_limits[c])
        by_ratio = (kept.masses * min(limit, _UNLIMITED)).clamp_max(1)
        return kept, 1 / (1 - (1 - by_key) * (1 - by_ratio))

    def share(self) -> None:
        """Join the samples of all machines; each ends with the rows of its own classes.

        Rows with the same key are the same row and are kept once.
        """
        super().share()  # limits before rows: those that one machine left out stay out
        for c in self.seen.nonzero().flatten().tolist():
            kept = self._pruned(c)
            everyone = sent_to_owner(c, None if kept is None else kept.to(_CPU, copy=True))
            self._buffers[c] = RowBuffer(self._buffers[c].room)
            parts = [own for own in everyone if own is not None]
            if parts:
                self._take(c, _distinct(SampledRows.joined(parts).to(self._device)))

    def state(self) -> dict[str, Tensor]:
        """Return the sample as tensors; of classes without rows, none."""
        return super().state() | {
            f"{name}.{c}": tensor
            for c in range(len(self.seen))
            if (kept := self._pruned(c)) is not None
            for name, tensor in kept.fields().items()
        }

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take up a saved sample."""
        super().restore(saved)
        for c in range(len(self.seen)):
            if f"keys.{c}" in saved:
                kept = {name.removesuffix(f".{c}"): tensor for name, tensor in saved.items()}
                self._take(c, SampledRows.of(kept).to(self._device))

    def kinds(self, saved: Mapping[str, Tensor]) -> dict[str, TensorKind]:
        """Return what the tensors of a saved sample must be, of the classes it has rows of."""
        kinds = super().kinds(saved)
        for c in (name.removeprefix("keys.") for name in saved if name.startswith("keys.")):
            if not (c.isdecimal() and c == str(int(c[:19])) and int(c) < len(self.seen)):
                raise ValueError(f"keys.{c[:20]} is of no class")
            count = f"rows of {c}"
            kinds |= {
                f"rows.{c}": TensorKind(FLOAT, (count, "width"), alike="rows"),
                f"keys.{c}": TensorKind(INTEGER, (count,), 0),
                f"tags.{c}": TensorKind(INTEGER, (count,), 0, self._n_tags - 1),
                f"masses.{c}": TensorKind(FLOAT, (count,), 0, alike="/masses"),
            }
            if self._keeps_places:
                kinds[f"places.{c}"] = TensorKind(INTEGER, (count, "/places"), 0)
        return kinds

    def check_values(self, saved: Mapping[str, Tensor], prefix: str = "") -> None:
        """Raise ``ValueError`` for places that are none."""
        for name in saved:
            if name.startswith("places."):
                check_places(saved[name], f"{prefix}{name}")

    def _take(self, c: int, offered: SampledRows) -> None:
        left = self._buffers[c].put(offered)
        while len(left):
            self._prune(c)
            left = self._buffers[c].put(left)

    def _pruned(self, c: int) -> SampledRows | None:
        self._prune(c)
        return self._buffers[c].rows()

    def _prune(self, c: int) -> None:
        """Drop the rows that cannot be of the sample."""
        held = self._buffers[c].rows()
        if held is not None and len(held) > self.capacity:
            self._buffers[c].keep(self._smallest(c, held))

    def _smallest(self, c: int, offered: SampledRows) -> Tensor:
        """Return which rows stay, and lower the limits of what can still enter."""
        if len(offered) <= self.capacity:
            return torch.arange(len(offered), device=offered.keys.device)
        is_far = torch.zeros_like(offered.keys, dtype=torch.bool)
        if self.is_weighted and self.capacity > 1:
            ratios = _ratios(offered.keys, offered.masses)
            smallest, far = ratios.topk(self.capacity // 2, largest=False)
            self.ratio_limits[c] = smallest[-1]
            is_far[far[smallest.isfinite()]] = True  # a row without mass is not far
        others = (~is_far).nonzero().squeeze(1)
        keys, chosen = offered.keys[others].topk(self.capacity - int(is_far.sum()), largest=False)
        self.key_limits[c] = keys[-1]
        is_far[others[chosen]] = True
        return is_far.nonzero().squeeze(1)


def _distinct(offered: SampledRows) -> SampledRows:
    """Return rows in key order, each once."""
    order = offered.keys.argsort(stable=True)
    is_new = torch.ones_like(order, dtype=torch.bool)
    is_new[1:] = offered.keys[order][1:] != offered.keys[order][:-1]
    return offered.at(order[is_new])


def _ratios(keys: Tensor, masses: Tensor) -> Tensor:
    """Return a second uniform number of each row over its mass, infinite without mass."""
    second = (_mix(keys) & 0x7FFF_FFFF_FFFF_FFFF).to(masses.dtype) / _RANGE
    return second / masses
