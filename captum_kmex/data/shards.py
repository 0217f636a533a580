"""The part of a data set that each machine of a ``torch.distributed`` group reads."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset

from captum_kmex.distributed import gather, together
from captum_kmex.text.descriptions import named_parts

__all__ = ["check_shards", "without_padding"]


def check_shards(loader: Iterable[object] | None) -> None:
    """Compare the first image of each machine's own shard.

    Args:
        loader: This machine's loader; ``None`` where the machines share a data set.

    Raises:
        ValueError: Two machines read the same data set.
        RuntimeError: Another machine's first image cannot be read.
    """
    with together():
        digest = _first_image(loader)
    digests = [found for found in gather(digest) if found is not None]
    if len(set(digests)) < len(digests):
        raise ValueError(
            f"{len(digests)} machines read data sets that begin with the same image, so each would "
            "read all of them; pass DataLoader(dataset, batch_size, "
            "sampler=DistributedSampler(dataset, shuffle=False))"
        )


def _first_image(loader: Iterable[object] | None) -> str | None:
    """Return the digest of a loader's first image, where it has one and that can be known."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    if not len(loader.dataset):  # type: ignore[arg-type]  # map-style data sets have a length
        return None
    digest = hashlib.sha256()
    with torch.random.fork_rng(devices=[]):
        for part in _parts(loader.dataset[0]):
            digest.update(part)
    return digest.hexdigest()


def _parts(item: object) -> Iterator[bytes]:
    """Yield the content of an item; a pickled tensor holds its address and all it is a view of."""
    fields = named_parts(item)
    item = item if fields is None else list(fields.values())
    if isinstance(item, (tuple, list)):
        for part in item:
            yield from _parts(part)
    elif isinstance(item, Tensor):
        yield item.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    else:
        yield pickle.dumps(item)


def without_padding(loader: DataLoader[object], drawn: list[list[int]]) -> list[list[int]]:
    """Return batches without the images with which shards are filled up to equal length.

    A ``DistributedSampler`` deals images out by turns and begins again when they run out;
    those dealt twice would count twice.

    Args:
        loader: The loader whose batches were drawn.
        drawn: Their indices.
    """
    sampler = loader.sampler
    if type(sampler) is not DistributedSampler or type(loader.batch_sampler) is not BatchSampler:
        return drawn
    size = len(sampler.dataset)  # type: ignore[arg-type]  # the sampler needs it too
    own = len(range(sampler.rank, size, sampler.num_replicas))
    kept, taken = [], 0
    for batch in drawn:
        kept.append(batch[: own - taken])
        taken += len(kept[-1])
    return [batch for batch in kept if batch]
