"""The first pass of a fit: a bounded sample of rows of each class and depth, and figures."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from captum_kmex.bank.ridge_head import RidgeSums
from captum_kmex.classes import class_count
from captum_kmex.data.batches import Batch
from captum_kmex.distributed import gather, gather_to, world_size
from captum_kmex.fitting.checkpoint import part
from captum_kmex.fitting.options import FitOptions, Observation
from captum_kmex.fitting.rows import RowSource, widest
from captum_kmex.fitting.sample import SLACK, ClassSample, SampledRows, row_keys

__all__ = ["Collection", "Summary"]

_ROWS_PER_CLASS = 20_000
_ROWS_AT_ONCE = 4096
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """Figures of the images of a fit.

    Attributes:
        n_logits: Number of logits.
        weights: Block weights, one a layer.
        n_images: Images.
        low: Least input value.
        high: Greatest input value.
        seen: Rows of each class at the first depth.
        kept: Rows of each class in the sample.
    """

    n_logits: int
    weights: tuple[float, ...]
    n_images: int
    low: float
    high: float
    seen: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return class_count(self.n_logits)

    def joined(self, other: Summary) -> Summary:
        """Return the figures of both together, but for the rows."""
        return replace(
            self,
            n_images=self.n_images + other.n_images,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
        )

    def state(self) -> dict[str, Tensor]:
        """Return the figures as tensors, to save and to read with ``of``."""
        figures = [self.n_logits, self.n_images, self.low, self.high, *self.weights]
        return {
            "figures": torch.tensor(figures, dtype=torch.float64),
            "seen": torch.tensor(self.seen, dtype=torch.int64),
            "kept": torch.tensor(self.kept, dtype=torch.int64),
        }

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> Summary:
        """Read saved figures."""
        n_logits, n_images, low, high, *weights = state["figures"].tolist()
        seen, kept = (tuple(state[name].tolist()) for name in ("seen", "kept"))
        return cls(int(n_logits), tuple(weights), int(n_images), low, high, seen, kept)


class Collection:
    """Keeps a seeded sample of rows of each class and depth of the batches it is given.

    Args:
        options: Options of the fit.
        device: Where the images are.

    Attributes:
        samples: The sample of each depth.
        device: Where its rows are.
        ridge: Sums of the ridge surrogate; empty where none is needed.
    """

    def __init__(self, options: FitOptions, device: torch.device) -> None:
        self._options = options
        self._summary: Summary | None = None
        self.device = device
        self.samples: list[ClassSample] = []
        self.ridge = RidgeSums()

    @property
    def summary(self) -> Summary:
        """Figures of what was collected.

        Raises:
            ValueError: There was no batch.
        """
        if self._summary is None:
            raise ValueError("the loader yielded no batch; pass one with at least one image")
        return self._summary

    def add(self, batch: Batch, seen: Observation) -> None:
        """Offer every pixel of a batch.

        Raises:
            ValueError: The labels do not fit, or the memory budget is too small.
        """
        if not self.samples:
            self.samples = _empty_samples(seen, self._options)
        low, high = (float(x) for x in batch.inputs[0].aminmax())
        here = Summary(seen.logits.shape[1], seen.weights, len(batch.indices), low, high)
        self._summary = here if self._summary is None else self._summary.joined(here)
        if seen.pooled is not None:
            self.ridge.add(seen.pooled, seen.logits)
        pairs = self._options.pairs(batch, seen.logits)
        for sample, source in zip(self.samples, seen.sources, strict=True):
            _offer(sample, source, pairs, batch.indices, self._options)

    def share(self) -> None:
        """Merge what all machines collected: the rows of class c go to machine c mod W.

        Raises:
            ValueError: No machine saw an image.
        """
        if world_size() > 1:
            found = [summary for summary in gather(self._summary) if summary is not None]
            self._summary = reduce(Summary.joined, found) if found else None
            self.ridge = reduce(RidgeSums.joined, gather(self.ridge))
            kinds = gather([(len(s.seen), s.capacity, s.is_weighted) for s in self.samples])
            kind = next(filter(None, kinds), [])
            self.samples = self.samples or [ClassSample(*arguments) for arguments in kind]
            for sample in self.samples:
                self._share(sample)
        summary, sample = self.summary, self.samples[0]
        seen = tuple(sample.seen.tolist())
        self._summary = replace(summary, seen=seen, kept=kept_rows(sample))

    def _share(self, sample: ClassSample) -> None:
        sample.seen = torch.stack(gather(sample.seen)).sum(0)
        for limits in gather(sample.limits):
            sample.lower(*limits)
        for c in sample.seen.nonzero().flatten().tolist():
            mine = [part.to(torch.device("cpu")) for part in sample.take(c)]
            everyone = gather_to(c % world_size(), mine)
            sample.merge_class(c, [part.to(self.device) for parts in everyone for part in parts])

    def state(self) -> dict[str, Tensor]:
        """Return everything collected so far, to save and to ``restore``."""
        state = {f"summary.{name}": tensor for name, tensor in self.summary.state().items()}
        state |= {f"ridge.{name}": tensor for name, tensor in self.ridge.state().items()}
        for depth, sample in enumerate(self.samples):
            state |= {f"{depth}.{name}": tensor for name, tensor in sample.state().items()}
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what was saved."""
        self._summary = Summary.of(part(state, "summary."))
        self.ridge = RidgeSums.of(part(state, "ridge."))
        depths = range(len(self._summary.weights))
        self.samples = [ClassSample.of(part(state, f"{depth}."), self.device) for depth in depths]


def kept_rows(sample: ClassSample) -> tuple[int, ...]:
    """Return the rows kept of each class, on whatever machine."""
    kept = torch.tensor([sample.kept(c) for c in range(len(sample.seen))], dtype=torch.int64)
    return tuple(torch.stack(gather(kept)).sum(0).tolist())


def _empty_samples(seen: Observation, options: FitOptions) -> list[ClassSample]:
    n_classes = class_count(seen.logits.shape[1])
    for c in options.classes or ():
        if not 0 <= c < n_classes:
            what = "logits" if seen.logits.shape[1] > 1 else "classes of a single logit"
            raise ValueError(f"classes holds {c}, out of range for {n_classes} {what}")
    groups = n_classes if options.labels is not None else 1
    wanted = len(options.classes) if options.classes and options.labels is not None else groups
    row_bytes = sum(source.width for source in seen.sources) * seen.logits.element_size()
    affordable = int(options.memory_budget / (SLACK * row_bytes * wanted))
    cap = _ROWS_PER_CLASS * (n_classes if options.labels is None else 1)
    capacity = min(cap, affordable)
    if capacity < 1:
        raise ValueError(
            f"memory_budget={options.memory_budget} bytes is less than one row of "
            f"{row_bytes} bytes for each of {wanted} classes; raise it, or pass classes="
        )
    _logger.info("keeping up to %d rows of each class", capacity)
    return [ClassSample(groups, capacity, source.masses is not None) for source in seen.sources]


def _offer(
    sample: ClassSample,
    source: RowSource,
    pairs: tuple[Tensor, Tensor],
    indices: Tensor,
    options: FitOptions,
) -> None:
    """Offer every pixel of the batch; only those that can still enter are computed."""
    images, tags = pairs
    n_pixels = source.grid[0] * source.grid[1]
    classes = tags if options.labels is not None else torch.zeros_like(tags)
    keys = row_keys(options.seed, indices, n_pixels)[images]
    masses = None if source.masses is None else source.masses[images]
    sample.seen += n_pixels * torch.bincount(classes, minlength=len(sample.seen)).cpu()
    candidates = sample.candidates(keys, classes, masses)
    for pair, pixel in zip(*(x.split(_ROWS_AT_ONCE) for x in candidates), strict=True):
        rows = source.rows(images[pair], pixel)
        own = rows.new_zeros(len(rows), dtype=widest(rows.device))
        own = own if masses is None else masses[pair, pixel]
        sample.add(SampledRows(rows, keys[pair, pixel], tags[pair], own), classes[pair])
