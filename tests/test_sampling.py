"""The sample is the brute-force set of smallest keys, whatever the order of offers."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare, kstest
from torch import Tensor

from captum_kmex.sampling import SLACK, ClassSample, row_keys

MASK = 2**64 - 1
N_CLASSES, CAPACITY, PIXELS = 3, 20, 16


def splitmix(x: int) -> int:
    """SplitMix64's output step, in exact integers."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


@pytest.mark.parametrize("seed", [0, 1, 12345, -7], ids=str)
def test_row_keys_equal_python_splitmix(seed):
    indices = torch.tensor([0, 1, 5, 10**9])
    found = row_keys(seed, indices, 3).tolist()
    for row, index in zip(found, indices.tolist(), strict=True):
        image = splitmix((index + splitmix(seed & MASK)) & MASK)
        assert row == [splitmix((image + p) & MASK) & (2**63 - 1) for p in range(3)]


def test_row_keys_equal_published_splitmix_stream():
    # first output of SplitMix64 seeded with 1234567 (rosettacode.org, Vigna's reference code)
    assert splitmix(1234567) == 6457827717110365317


def test_row_keys_look_uniform():
    keys = row_keys(0, torch.arange(500), 196).flatten().double() / 2**63
    assert kstest(keys.numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("bits", [0, 20, 56], ids=["low", "middle", "high"])
def test_row_keys_spread_evenly_over_bits(bits):
    keys = row_keys(3, torch.arange(300), 100).flatten()
    counts = torch.bincount((keys >> bits) & 0x7F, minlength=128)
    assert chisquare(counts.numpy()).pvalue > 0.01


def test_row_keys_do_not_collide():
    assert row_keys(0, torch.arange(300), 196).unique().numel() == 300 * 196


def test_row_keys_differ_by_seed():
    indices = torch.arange(4)
    assert not (row_keys(0, indices, 8) == row_keys(1, indices, 8)).any()


def test_row_keys_of_an_image_do_not_depend_on_batch():
    whole = row_keys(0, torch.arange(10), 5)
    assert torch.equal(row_keys(0, torch.tensor([7, 2]), 5), whole[[7, 2]])


class Data:
    """Images whose rows carry their own key, so that a sample can be checked row by row."""

    def __init__(self, count: int = 40) -> None:
        self.indices = torch.arange(count)
        self.classes = (self.indices * 7) % N_CLASSES
        self.keys = row_keys(0, self.indices, PIXELS)

    def offer(self, sample: ClassSample, images: Tensor) -> None:
        keys, classes = self.keys[images], self.classes[images]
        image, pixel = sample.candidates(keys, classes)
        chosen = keys[image, pixel]
        rows = torch.stack([chosen, images[image]], 1)
        sample.add(rows, chosen, classes[image], images[image] * PIXELS + pixel)
        sample.seen += PIXELS * torch.bincount(classes, minlength=N_CLASSES)

    def sample(self, *batches: Tensor) -> ClassSample:
        sample = ClassSample(N_CLASSES, CAPACITY)
        for batch in batches:
            self.offer(sample, batch)
        return sample

    def smallest(self, c: int) -> Tensor:
        return self.keys[self.classes == c].flatten().sort().values[:CAPACITY]


@pytest.fixture
def data() -> Data:
    return Data()


def assert_same_samples(a: ClassSample, b: ClassSample) -> None:
    assert torch.equal(a.seen, b.seen)
    for c in range(N_CLASSES):
        for ours, theirs in zip(a.rows(c), b.rows(c), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("c", range(N_CLASSES))
def test_sample_keeps_smallest_keys(data, c):
    sample = data.sample(*data.indices.split(3))
    rows, _ = sample.rows(c)
    assert torch.equal(rows[:, 0], data.smallest(c))


def test_sample_keeps_rows_beside_their_tags(data):
    rows, tags = data.sample(*data.indices.split(5)).rows(1)
    assert torch.equal(data.keys.flatten()[tags], rows[:, 0])
    assert torch.equal(tags // PIXELS, rows[:, 1])


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_sample_does_not_depend_on_batch_size(data, size):
    assert_same_samples(data.sample(*data.indices.split(size)), data.sample(data.indices))


@pytest.mark.parametrize("seed", range(3))
def test_sample_does_not_depend_on_order(data, seed):
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    assert_same_samples(data.sample(*order.split(4)), data.sample(data.indices))


@pytest.mark.parametrize("cut", [1, 13, 39])
def test_sample_merged_from_halves_is_sample_of_whole(data, cut):
    merged = data.sample(*data.indices[:cut].split(3))
    merged.merge(data.sample(*data.indices[cut:].split(4)))
    assert_same_samples(merged, data.sample(data.indices))


def test_sample_takes_rows_after_a_merge(data):
    merged = data.sample(data.indices[:10])
    merged.merge(data.sample(data.indices[10:20]))
    data.offer(merged, data.indices[20:])
    assert_same_samples(merged, data.sample(data.indices))


def test_sample_keeps_everything_below_capacity(data):
    sample = ClassSample(N_CLASSES, 10_000)
    data.offer(sample, data.indices)
    assert [sample.kept(c) for c in range(N_CLASSES)] == sample.seen.tolist()
    rows, _ = sample.rows(0)
    assert torch.equal(rows[:, 0], data.keys[data.classes == 0].flatten().sort().values)


def test_sample_never_holds_more_than_slack(data):
    sample = ClassSample(N_CLASSES, CAPACITY)
    for batch in data.indices.split(2):
        data.offer(sample, batch)
        assert all(sum(map(len, keys)) <= SLACK * CAPACITY for keys in sample._keys)
        assert all(sample.kept(c) <= CAPACITY for c in range(N_CLASSES))


def test_candidates_never_exclude_a_row_of_the_final_sample(data):
    sample = ClassSample(N_CLASSES, CAPACITY)
    for batch in data.indices.split(2):
        keys, classes = data.keys[batch], data.classes[batch]
        last = torch.stack([data.smallest(c)[-1] for c in range(N_CLASSES)])
        final = keys <= last[classes].unsqueeze(1)
        offered = torch.zeros_like(final)
        offered[sample.candidates(keys, classes)] = True
        assert offered[final].all()
        data.offer(sample, batch)


def test_candidates_shrink_as_rows_come(data):
    sample = data.sample(*data.indices[:30].split(3))
    images, _ = sample.candidates(data.keys[30:], data.classes[30:])
    assert 0 < len(images) < 0.5 * data.keys[30:].numel()


def test_candidates_of_one_large_batch_are_bounded(data):
    images, pixels = ClassSample(N_CLASSES, CAPACITY).candidates(data.keys, data.classes)
    for c in range(N_CLASSES):
        own = data.classes[images] == c
        found = data.keys[images[own], pixels[own]].sort().values
        assert torch.equal(found, data.smallest(c))


def test_merge_raises_for_other_capacity():
    with pytest.raises(ValueError, match="3 classes x 20 rows and 3 x 21 cannot merge"):
        ClassSample(3, 20).merge(ClassSample(3, 21))


def test_merge_raises_for_other_classes():
    with pytest.raises(ValueError, match="3 classes x 20 rows and 4 x 20 cannot merge"):
        ClassSample(3, 20).merge(ClassSample(4, 20))
