"""Images that a distributed sampler deals out twice are left out."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset

from captum_kmex.batches import IndexedBatches
from captum_kmex.shards import without_padding

SIZES = [(1, 4), (5, 4), (12, 4), (13, 4), (2, 3), (7, 1), (30, 8)]


def loaders(size: int, ranks: int, kind=DistributedSampler, **options) -> list[DataLoader]:
    data = TensorDataset(torch.arange(float(size)).view(-1, 1, 1, 1))
    samplers = [kind(data, ranks, rank, **options) for rank in range(ranks)]
    return [DataLoader(data, 2, sampler=sampler) for sampler in samplers]


def drawn(loader: DataLoader) -> list[list[int]]:
    return [list(batch) for batch in loader.batch_sampler]


@pytest.mark.parametrize(("size", "ranks"), SIZES)
@pytest.mark.parametrize("shuffle", [False, True], ids=["ordered", "shuffled"])
def test_every_image_is_read_by_one_rank_once(size, ranks, shuffle):
    found = [
        index
        for loader in loaders(size, ranks, shuffle=shuffle)
        for batch in IndexedBatches(loader, torch.device("cpu"))
        for index in batch.indices.tolist()
    ]
    assert sorted(found) == list(range(size))


@pytest.mark.parametrize(("size", "ranks"), SIZES)
def test_batches_keep_their_order_and_size(size, ranks):
    for loader in loaders(size, ranks, shuffle=True):
        before, after = drawn(loader), without_padding(loader, drawn(loader))
        assert all(after)
        flat = list(chain.from_iterable(after))
        assert flat == list(chain.from_iterable(before))[: len(flat)]
        assert [len(batch) for batch in after[:-1]] == [2] * (len(after) - 1)


def test_sampler_that_drops_the_last_images_is_read_as_it_is():
    for loader in loaders(13, 4, drop_last=True, shuffle=False):
        assert without_padding(loader, drawn(loader)) == drawn(loader)


class Own(DistributedSampler):
    """May deal out otherwise."""


def test_other_samplers_are_read_as_they_are():
    for loader in loaders(5, 4, kind=Own):
        assert without_padding(loader, drawn(loader)) == drawn(loader)
    (plain,) = loaders(5, 1)
    for sampler in ([0, 0, 1], plain.sampler):
        batches = BatchSampler(sampler, 2, False)
        loader = DataLoader(plain.dataset, batch_sampler=batches)
        assert without_padding(loader, [[0, 0], [1]]) == [[0, 0], [1]]
