"""Shards are told apart by their first image, and padding dealt out twice is left out."""

from __future__ import annotations

import contextlib
from itertools import chain

import pytest
import torch
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset

from captum_kmex.data.batches import IndexedBatches
from captum_kmex.data.shards import check_shards, without_padding

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


def first_images(monkeypatch, *datasets) -> None:
    """Check the shards of a group whose ranks have these data sets."""
    told = []
    monkeypatch.setattr("captum_kmex.data.shards.gather", lambda value: told.append(value) or told)
    for dataset in datasets[:-1]:
        with contextlib.suppress(ValueError):
            check_shards(DataLoader(dataset, 2))
    check_shards(DataLoader(datasets[-1], 2))


def a_dataset(form: str, shift: float = 0) -> list[object]:
    """Four images in memory of their own, as data sets yield them."""
    x = torch.arange(64.0).view(4, 1, 4, 4).clone() + shift
    make = {
        "tensors": lambda i: (x[i], torch.tensor(i)),
        "half": lambda i: (x[i].to(torch.bfloat16), i),
        "image_alone": lambda i: x[i],
        "several_inputs": lambda i: ((x[i], x[i].transpose(1, 2)), i),
        "mapping": lambda i: {"image": x[i], "label": i},
        "array": lambda i: (x[i].numpy(), i),
        "picture": lambda i: (Image.fromarray(x[i, 0].byte().numpy()), i),
    }[form]
    return [make(i) for i in range(4)]


FORMS = ["tensors", "half", "image_alone", "several_inputs", "mapping", "array", "picture"]
forms = pytest.mark.parametrize("form", FORMS)


@forms
def test_equal_data_sets_are_refused_wherever_they_lie_in_memory(monkeypatch, form):
    with pytest.raises(ValueError, match="2 machines read data sets that begin with the same"):
        first_images(monkeypatch, a_dataset(form), a_dataset(form))


@forms
def test_data_sets_that_differ_are_accepted(monkeypatch, form):
    first_images(monkeypatch, a_dataset(form), a_dataset(form, 8), a_dataset(form, 16))


def test_empty_data_sets_are_accepted(monkeypatch):
    first_images(monkeypatch, [], [], a_dataset("tensors"))


def test_first_image_alone_is_read_and_the_random_state_is_kept(monkeypatch):
    read = []

    class Drawing:
        def __len__(self):
            return 9

        def __getitem__(self, index):
            read.append(index)
            return torch.rand(1, 2, 2)

    before = torch.get_rng_state()
    first_images(monkeypatch, Drawing())
    assert read == [0]
    assert torch.equal(torch.get_rng_state(), before)
