"""The first pass of a fit: a bounded sample of rows of each class and depth, and figures."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from captum_kmex.bank.tensor_kinds import INTEGER, TensorKind
from captum_kmex.classes import class_count
from captum_kmex.data.batches import Batch
from captum_kmex.fitting.options import FitOptions, Observation
from captum_kmex.fitting.places import places_of
from captum_kmex.fitting.ridge import RidgeSums
from captum_kmex.fitting.rows import RowSource, widest
from captum_kmex.fitting.sample import SLACK, ClassSample, row_keys
from captum_kmex.fitting.sampled_rows import SampledRows
from captum_kmex.fitting.state import State, alike
from captum_kmex.fitting.summary import Summary

__all__ = ["Collection"]

_ROWS_PER_CLASS = 20_000
_ROWS_AT_ONCE = 4096
_logger = logging.getLogger(__name__)


class Collection(State):
    """Keeps a seeded sample of rows of each class and depth of the batches it is given.

    Args:
        options: Options of the fit.
        device: Where the images are.

    Attributes:
        capacity: Most rows kept of a class; 0 before the first batch.
        is_weighted: 1 where rows have masses, 0 where they have none.
        summary: Figures of the images.
        ridge: Sums of the ridge head; empty where none is needed.
        samples: The sample of each depth.
        device: Where its rows are.
    """

    capacity: int
    is_weighted: int

    def __init__(self, options: FitOptions, device: torch.device) -> None:
        super().__init__()
        self.declare("capacity", 0, TensorKind(INTEGER, (), 1), alike)
        self.declare("is_weighted", 0, TensorKind(INTEGER, (), 0, 1), alike)
        self._options = options
        self.device = device
        self.summary = Summary()
        self.ridge = RidgeSums()
        self.samples: list[ClassSample] = []

    def parts(self) -> Iterator[tuple[str, State]]:
        """Yield figures, sums and samples; of which kind the samples are, the figures say."""
        yield "summary", self.summary
        yield "ridge", self.ridge
        self._open_samples()
        for depth, sample in enumerate(self.samples):
            yield f"{depth}", sample

    def add(self, batch: Batch, seen: Observation) -> None:
        """Offer every pixel of a batch.

        Raises:
            ValueError: The labels do not fit, or the memory budget is too small.
        """
        if not self.capacity:
            self.capacity = _capacity(seen, self._options)
            self.is_weighted = int(seen.sources[0].masses is not None)
        self.summary.add(batch, seen)
        self._open_samples()
        if seen.pooled is not None:
            self.ridge.add(seen.pooled, seen.logits)
        pairs = self._options.pairs(batch, seen.logits)
        for sample, source in zip(self.samples, seen.sources, strict=True):
            _offer(sample, source, pairs, batch, self._options)

    def share(self) -> None:
        """Join what all machines collected: the rows of class c go to machine c mod W.

        Raises:
            ValueError: No machine saw an image.
        """
        super().share()
        if not self.samples:
            raise ValueError("the loader yielded no batch; pass one with at least one image")
        self.summary.seen = tuple(self.samples[0].seen.tolist())
        self.summary.kept = self.samples[0].kept_by_all()

    def _open_samples(self) -> None:
        n_classes, missing = self.summary.n_classes, len(self.summary.weights) - len(self.samples)
        groups = n_classes if self._options.labels is not None else 1
        self.samples += [
            ClassSample(
                groups,
                self.capacity,
                bool(self.is_weighted),
                n_tags=n_classes,
                keeps_places=self._options.keeps_places,
                device=self.device,
            )
            for _ in range(missing)
        ]


def _capacity(seen: Observation, options: FitOptions) -> int:
    """Return how many rows of each class the memory budget allows."""
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
    return capacity


def _offer(
    sample: ClassSample,
    source: RowSource,
    pairs: tuple[Tensor, Tensor],
    batch: Batch,
    options: FitOptions,
) -> None:
    """Offer every pixel of the batch; only those that can still enter are computed."""
    images, tags = pairs
    grid, size = source.grid, batch.inputs[0].shape[2:]
    n_pixels = math.prod(grid)
    classes = tags if options.labels is not None else torch.zeros_like(tags)
    keys = row_keys(options.seed, batch.indices, n_pixels)[images]
    masses = None if source.masses is None else source.masses[images]
    sample.seen += n_pixels * torch.bincount(classes, minlength=len(sample.seen)).cpu()
    candidates = sample.candidates(keys, classes, masses)
    for pair, pixel in zip(*(x.split(_ROWS_AT_ONCE) for x in candidates), strict=True):
        image = images[pair]
        rows = source.rows(image, pixel)
        own = rows.new_zeros(len(rows), dtype=widest(rows.device))
        own = own if masses is None else masses[pair, pixel]
        found = SampledRows(rows, keys[pair, pixel], tags[pair], own)
        if options.keeps_places:
            found = replace(found, places=places_of(batch.indices[image], pixel, grid, size))
        sample.add(found, classes[pair])
