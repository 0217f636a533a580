"""Batches with data-set indices and labels, the same in every pass, from any loader."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from captum_kmex.arguments.inputs import check_inputs
from captum_kmex.data.digests import BatchMarks
from captum_kmex.data.items import BATCH, inputs_of, label_of, label_tensor
from captum_kmex.data.labels import Labels, class_pairs
from captum_kmex.data.shards import check_shards, without_padding
from captum_kmex.distributed import rank, world_size

__all__ = ["Batch", "IndexedBatches", "Labels", "class_pairs"]


@dataclass(frozen=True)
class Batch:
    """One batch of a loader.

    Attributes:
        inputs: The model's positional tensors, images (N, C, H, W) first.
        targets: The loader's labels (N,) or multi-hot (N, C), or ``None``.
        indices: Integer tensor (N,), positions in the data set (for an iterable without
            positions: the order of arrival).
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor | None
    indices: Tensor


class IndexedBatches:
    """Iterate a loader in data-set order, so that every pass sees the same images.

    A shuffled ``DataLoader`` over a map-style data set is read in order instead; one with a
    sampler of its own keeps the order drawn when this object is made. Anything else is read
    as it comes.

    In a group of machines each reads a shard. With a sampler of its own, such as a
    ``DistributedSampler``, a loader's indices are positions in the data set they share (its
    padding is left out); another loader's images, its own shard, are numbered by turns with
    the other machines'.

    Args:
        loader: A ``DataLoader``, or an iterable of ``(images, labels)``, of ``images``, or of
            dicts with one image tensor and ``"label"`` (see ``items``).
        device: Where the batches go.
        model: What they are for, if that is known.

    Raises:
        TypeError: Not an iterable of batches.
    """

    def __init__(
        self, loader: Iterable[object], device: torch.device, model: nn.Module | None = None
    ) -> None:
        if isinstance(loader, (Tensor, Dataset, Mapping)) or not isinstance(loader, Iterable):
            raise TypeError(
                f"fit takes a DataLoader or an iterable of batches; got {type(loader).__name__}."
                " Wrap it: DataLoader(dataset, batch_size=64)"
            )
        self.device, self._model = device, model
        self._loader, self._order = _in_order(loader)
        self.is_repeatable = not isinstance(loader, Iterator)
        self._is_shared = self._order is not None and not _has_plain_sampler(loader)

    def __len__(self) -> int:
        try:
            return len(self._loader)  # type: ignore[arg-type]  # not every iterable has one
        except TypeError:
            return 0

    def __iter__(self) -> Iterator[Batch]:
        return self.after(0)

    def after(self, count: int, marks: BatchMarks | None = None) -> Iterator[Batch]:
        """Iterate from some batch on; where positions are known, none before it is loaded whole.

        Args:
            count: Batches to leave out.
            marks: Of an interrupted fit, to compare all batches with: also those left out, of
                which only the ends are loaded where positions are known.

        Raises:
            ValueError: A batch is another than the interrupted fit's.
        """
        loader, start, first = self._loader, 0, 0
        if count and self._order is not None:
            in_order = cast("DataLoader[object]", loader)
            if marks is not None:
                drawn = cast("BatchSampler", in_order.batch_sampler)
                marks.compare_ends(drawn, count, partial(_split_batches, in_order))
            loader, start = _without(in_order, count)
            first = count
        number = first - 1
        for number, batch in enumerate(_drawing_apart(loader), first):
            inputs, targets = _split(batch, self._model)
            if marks is not None:
                marks.note(number, inputs, targets)
            stop = start + len(inputs[0])
            if number >= count:
                moved = tuple(tensor.to(self.device, non_blocking=True) for tensor in inputs)
                targets = targets if targets is None else targets.to(self.device)
                yield Batch(moved, targets, self._indices(start, stop).to(self.device))
            start = stop
        if marks is not None:
            marks.end(number + 1)

    def check_shards(self) -> None:
        """Compare the first image of each machine's own shard; all machines must call this.

        Raises:
            ValueError: They read the same images.
            RuntimeError: Another machine's first image cannot be read.
        """
        if world_size() > 1:
            check_shards(None if self._is_shared else self._loader)

    def identity(self) -> dict[str, object]:
        """Return what must be equal for two loaders to give the same batches, fit for JSON."""
        if self._order is None:
            return {"batches": len(self), "batch_size": None, "order": None}
        batches = cast("DataLoader[object]", self._loader).batch_sampler
        sizes = torch.tensor([len(batch) for batch in batches or ()], dtype=torch.int64)
        digest = hashlib.sha256(torch.cat([sizes, self._order]).numpy().tobytes())
        return {
            "batches": len(sizes),
            "batch_size": max(sizes.tolist(), default=0),
            "order": digest.hexdigest(),
        }

    def kind(self) -> dict[str, object]:
        """Return what must be equal for machines to read parts of the same data."""
        shared = cast("DataLoader[object]", self._loader) if self._is_shared else None
        size = None if shared is None else len(shared.dataset)  # type: ignore[arg-type]
        return {"is shared": self._is_shared, "size": size, "can be read again": self.is_repeatable}

    def _indices(self, start: int, stop: int) -> Tensor:
        local = torch.arange(start, stop)
        if self._order is not None:
            local = self._order[start:stop]
        return local if self._is_shared else local * world_size() + rank()


def _drawing_apart(loader: Iterable[object]) -> Iterator[object]:
    """Iterate a loader on a random state of its own, and leave torch's global one as found."""
    state, done = torch.get_rng_state(), object()
    batches: Iterator[object] | None = None
    batch: object = None
    while batch is not done:
        outer = torch.get_rng_state()
        torch.set_rng_state(state)
        try:
            batches = iter(loader) if batches is None else batches
            batch = next(batches, done)
        finally:
            state = torch.get_rng_state()
            torch.set_rng_state(outer)
        if batch is not done:
            yield batch


def _split_batches(
    loader: DataLoader[object], drawn: list[list[int]]
) -> Iterator[tuple[tuple[Tensor, ...], Tensor | None]]:
    """Yield inputs and labels of other batches of a loader."""
    yield from map(_split, _drawing_apart(_rebuilt(loader, batch_sampler=drawn)))


def _in_order(loader: Iterable[object]) -> tuple[Iterable[object], Tensor | None]:
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return loader, None
    if type(loader).__iter__ is not DataLoader.__iter__:  # what it adds must not be lost
        return loader, None
    size = len(loader.dataset)  # type: ignore[arg-type]  # map-style data sets have a length
    if loader.batch_sampler is None:  # the data set yields whole batches
        return _rebuilt(loader, sampler=range(size), batch_size=None), None
    if loader.batch_size is not None and _reads_all(loader, size):
        in_order = _rebuilt(loader, sampler=range(size), batch_size=loader.batch_size)
        return in_order, torch.arange(size)
    with torch.random.fork_rng(devices=[]):
        drawn = without_padding(loader, [list(batch) for batch in loader.batch_sampler])
    order = torch.tensor(list(chain.from_iterable(drawn)), dtype=torch.int64)
    return _rebuilt(loader, batch_sampler=drawn), order


def _without(loader: DataLoader[object], count: int) -> tuple[DataLoader[object], int]:
    """Return a rebuilt loader without its first batches, and the images in these."""
    if isinstance(loader.sampler, range):
        start = count * (loader.batch_size or 1)
        rest = _rebuilt(loader, sampler=loader.sampler[start:], batch_size=loader.batch_size)
        return rest, min(start, len(loader.sampler))
    drawn = cast("list[list[int]]", loader.batch_sampler)
    return _rebuilt(loader, batch_sampler=drawn[count:]), sum(map(len, drawn[:count]))


def _has_plain_sampler(loader: Iterable[object]) -> bool:
    """Whether a loader reads all of its data set, in order or shuffled."""
    sampler = getattr(loader, "sampler", None)
    own = getattr(loader, "batch_sampler", None)
    return isinstance(sampler, (SequentialSampler, RandomSampler)) and type(own) is BatchSampler


def _rebuilt(loader: DataLoader[object], **order: object) -> DataLoader[object]:
    return DataLoader(
        loader.dataset,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        **order,  # type: ignore[arg-type]
    )


def _reads_all(loader: DataLoader[object], size: int) -> bool:
    """Whether a loader reads its whole data set, in order or shuffled."""
    sampler = loader.sampler
    if isinstance(sampler, SequentialSampler):
        return not loader.drop_last
    if not isinstance(sampler, RandomSampler) or sampler.replacement:
        return False
    return sampler.num_samples == size


def _split(
    batch: object, model: nn.Module | None = None
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Return the inputs and the labels of one batch."""
    inputs = inputs_of(batch, BATCH)
    labels = label_of(batch, BATCH)
    try:
        return inputs, label_tensor(labels, len(inputs[0]))
    except ValueError:
        check_inputs(inputs, model)  # what is no batch of images has no number of labels either
        raise
