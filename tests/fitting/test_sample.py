"""The sample is the brute-force set of smallest keys, whatever the order of offers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from machines import share
from scipy.stats import chisquare, kstest
from torch import Tensor

from captum_kmex.fitting.sample import SLACK, ClassSample, row_keys
from captum_kmex.fitting.sampled_rows import SampledRows

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
        masses = self.masses(keys[..., None]) if sample.is_weighted else None
        image, pixel = sample.candidates(keys, classes, masses)
        chosen = keys[image, pixel]
        rows = torch.stack([chosen, images[image]], 1)
        tags = images[image] * PIXELS + pixel
        places = tags[:, None] + torch.arange(5)
        sample.add(SampledRows(rows, chosen, tags, self.masses(rows), places), classes[image])
        sample.seen += PIXELS * torch.bincount(classes, minlength=N_CLASSES)

    def masses(self, rows: Tensor) -> Tensor:
        """Heavy-tailed masses, a function of the row."""
        return 1 / (0.01 + (rows[..., 0] % 997).double() / 997)

    def sample(self, *batches: Tensor, is_weighted: bool = False) -> ClassSample:
        sample = ClassSample(N_CLASSES, CAPACITY, is_weighted, keeps_places=True)
        for batch in batches:
            self.offer(sample, batch)
        return sample

    def smallest(self, c: int) -> Tensor:
        return self.keys[self.classes == c].flatten().sort().values[:CAPACITY]


@pytest.fixture
def data() -> Data:
    return Data()


class Joined:
    """The samples of machines that have joined them, each with the rows of its own classes."""

    def __init__(self, *machines: ClassSample) -> None:
        share(*machines)
        self.machines, self.seen = machines, machines[0].seen

    def rows(self, c: int) -> tuple[SampledRows, Tensor | None]:
        return self.machines[c % len(self.machines)].rows(c)


def assert_same_samples(a: ClassSample | Joined, b: ClassSample) -> None:
    assert torch.equal(a.seen, b.seen)
    for c in range(N_CLASSES):
        ours, theirs = a.rows(c)[0], b.rows(c)[0]
        for name in ("rows", "keys", "tags", "masses", "places"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("c", range(N_CLASSES))
def test_sample_keeps_smallest_keys(data, c):
    sample = data.sample(*data.indices.split(3))
    kept, weights = sample.rows(c)
    assert torch.equal(kept.rows[:, 0], data.smallest(c))
    assert weights is None


def test_sample_keeps_rows_beside_their_tags(data):
    kept, _ = data.sample(*data.indices.split(5)).rows(1)
    assert torch.equal(data.keys.flatten()[kept.tags], kept.rows[:, 0])
    assert torch.equal(kept.tags // PIXELS, kept.rows[:, 1])
    assert torch.equal(kept.places[:, 0], kept.tags)


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_sample_does_not_depend_on_batch_size(data, size):
    assert_same_samples(data.sample(*data.indices.split(size)), data.sample(data.indices))


@pytest.mark.parametrize("seed", range(3))
def test_sample_does_not_depend_on_order(data, seed):
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    assert_same_samples(data.sample(*order.split(4)), data.sample(data.indices))


@pytest.mark.parametrize("cut", [1, 13, 39])
def test_sample_of_machines_with_halves_is_sample_of_whole(data, cut):
    halves = data.sample(*data.indices[:cut].split(3)), data.sample(*data.indices[cut:].split(4))
    assert_same_samples(Joined(*halves), data.sample(data.indices))


def test_sample_takes_rows_after_machines_joined(data):
    joined = Joined(data.sample(data.indices[:10]), data.sample(data.indices[10:20]))
    for machine in joined.machines:
        data.offer(machine, data.indices[20:])
    joined.seen = joined.machines[0].seen
    assert_same_samples(joined, data.sample(data.indices))


def test_sample_keeps_everything_below_capacity(data):
    sample = ClassSample(N_CLASSES, 10_000)
    data.offer(sample, data.indices)
    assert [sample.kept(c) for c in range(N_CLASSES)] == sample.seen.tolist()
    kept, _ = sample.rows(0)
    assert torch.equal(kept.rows[:, 0], data.keys[data.classes == 0].flatten().sort().values)


def test_sample_never_holds_more_than_slack(data):
    sample = ClassSample(N_CLASSES, CAPACITY)
    for batch in data.indices.split(2):
        data.offer(sample, batch)
        assert all(len(held) <= SLACK * CAPACITY for held in sample._buffers)
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


def brute_force(data: Data, c: int) -> tuple[set[int], dict[int, float]]:
    """The rows of smallest ratio, the smallest keys of the others, and each one's chance."""
    keys = data.keys[data.classes == c].flatten().tolist()
    masses = dict(zip(keys, data.masses(torch.tensor(keys)[:, None]).tolist(), strict=True))
    ratio = {key: (splitmix(key) & (2**63 - 1)) / 2**63 / masses[key] for key in keys}
    far = sorted(keys, key=ratio.get)[: CAPACITY // 2]
    near = sorted(set(keys) - set(far))[: CAPACITY // 2]
    t, r = near[-1] / 2**63, ratio[far[-1]]
    chance = {key: 1 - (1 - t) * (1 - min(1, masses[key] * r)) for key in near + far}
    return set(near) | set(far), chance


@pytest.mark.parametrize("c", range(N_CLASSES))
def test_weighted_sample_is_smallest_ratios_and_smallest_other_keys(data, c):
    kept, weights = data.sample(*data.indices.split(3), is_weighted=True).rows(c)
    expected, chance = brute_force(data, c)
    assert set(kept.keys.tolist()) == expected
    assert weights.tolist() == pytest.approx([1 / chance[key] for key in kept.keys.tolist()])


@pytest.mark.parametrize("cut", [1, 13, 39])
def test_weighted_sample_of_machines_with_halves_is_sample_of_whole(data, cut):
    halves = (
        data.sample(*data.indices[:cut].split(3), is_weighted=True),
        data.sample(*data.indices[cut:].split(4), is_weighted=True),
    )
    assert_same_samples(Joined(*halves), data.sample(data.indices, is_weighted=True))


def test_weighted_sample_of_few_rows_has_unit_weights(data):
    sample = ClassSample(N_CLASSES, 10_000, is_weighted=True)
    data.offer(sample, data.indices)
    assert sample.rows(0)[1].tolist() == [1.0] * sample.kept(0)


def test_weights_estimate_totals_without_bias():
    """Sums of a heavy-tailed value, estimated from samples of different seeds."""
    indices, estimates = torch.arange(400), []
    values = torch.from_numpy(np.random.default_rng(0).pareto(1.5, 400))
    total = float(values.sum())
    for seed in range(300):
        keys = row_keys(seed, indices, 1)
        sample = ClassSample(1, 40, is_weighted=True)
        sample.add(SampledRows(values[:, None], keys[:, 0], indices, values), 0 * indices)
        kept, weights = sample.rows(0)
        estimates.append(float(kept.rows[:, 0] @ weights))
    error = np.std(estimates) / len(estimates) ** 0.5
    # conditioning on the last kept key instead of the next costs about one row in twenty
    assert np.mean(estimates) == pytest.approx(total, abs=3 * error + total / 20)


def test_row_of_two_machines_is_kept_once(data):
    """A distributed sampler fills up shards with images of its own beginning."""
    joined = Joined(data.sample(data.indices), data.sample(data.indices[:9]))
    for c in range(N_CLASSES):
        assert torch.equal(joined.rows(c)[0].keys, data.smallest(c))


def test_machine_forgets_classes_of_others(data):
    machines = Joined(data.sample(data.indices[:20]), data.sample(data.indices[20:])).machines
    for rank, machine in enumerate(machines):
        kept = [machine.kept(c) for c in range(N_CLASSES)]
        assert kept == [CAPACITY * (c % 2 == rank) for c in range(N_CLASSES)]


def state_round_trip(sample: ClassSample) -> ClassSample:
    read = ClassSample(len(sample.seen), sample.capacity, sample.is_weighted)
    read.restore(sample.state())
    return read


@pytest.mark.parametrize("is_weighted", [False, True], ids=["uniform", "weighted"])
@pytest.mark.parametrize("cut", [1, 13, 39])
def test_sample_saved_and_read_goes_on_as_if_it_had_not_been(data, cut, is_weighted):
    saved = state_round_trip(data.sample(*data.indices[:cut].split(3), is_weighted=is_weighted))
    for batch in data.indices[cut:].split(3):
        data.offer(saved, batch)
    whole = data.sample(data.indices, is_weighted=is_weighted)
    assert_same_samples(saved, whole)
    if is_weighted:  # which chances are made of
        assert torch.equal(saved.key_limits, whole.key_limits)
        assert torch.equal(saved.ratio_limits, whole.ratio_limits)


def test_sample_without_rows_of_a_class_is_saved_and_read():
    sample = state_round_trip(ClassSample(2, 5))
    assert [sample.kept(c) for c in range(2)] == [0, 0]
    assert sample.seen.tolist() == [0, 0]


@pytest.mark.parametrize("first", ["full", "empty"])
def test_sample_joined_with_an_empty_one_keeps_its_weights(data, first):
    """Of two machines, only one had images of a class."""
    empty, whole = (
        ClassSample(N_CLASSES, CAPACITY, True),
        data.sample(data.indices, is_weighted=True),
    )
    expected = [whole.rows(c)[1] for c in range(N_CLASSES)]
    joined = Joined(*((whole, empty) if first == "full" else (empty, whole)))
    for c in range(N_CLASSES):
        assert expected[c].max() > 2
        assert torch.equal(joined.rows(c)[1], expected[c])


@pytest.mark.parametrize("cut", [1, 13, 39])
@pytest.mark.parametrize("swaps", [False, True])
def test_joined_weights_are_those_of_the_whole(data, cut, swaps):
    halves = [data.indices[:cut], data.indices[cut:]]
    turns = halves[:: -1 if swaps else 1]
    joined = Joined(*(data.sample(half, is_weighted=True) for half in turns))
    whole = data.sample(data.indices, is_weighted=True)
    for c in range(N_CLASSES):
        assert torch.equal(joined.rows(c)[1], whole.rows(c)[1])


def weighted_sample(keys: Tensor, masses: Tensor, size: int, capacity: int = 40) -> ClassSample:
    sample = ClassSample(1, capacity, is_weighted=True)
    for part in torch.arange(len(keys)).split(size):
        image, _ = sample.candidates(keys[part, None], 0 * part, masses[part, None])
        chosen = part[image]
        rows = SampledRows(masses[chosen, None], keys[chosen], chosen, masses[chosen])
        sample.add(rows, 0 * chosen)
    return sample


@pytest.mark.parametrize("n_positive", [0, 3, 100])
@pytest.mark.parametrize("size", [1, 7, 300])
def test_rows_without_mass_are_taken_by_key_alone(n_positive, size):
    keys = row_keys(0, torch.arange(300), 1)[:, 0]
    masses = torch.zeros(300, dtype=torch.float64)
    masses[:n_positive] = torch.arange(1, n_positive + 1).double()
    kept, weights = weighted_sample(keys, masses, size).rows(0)
    if n_positive <= 20:  # all rows of mass, and the smallest keys of the others
        others = keys[n_positive:].sort().values[: 40 - n_positive]
        assert kept.keys.tolist() == torch.cat([keys[:n_positive], others]).sort().values.tolist()
        assert (weights[kept.masses > 0] == 1).all()
        total = float(weights[kept.masses == 0].sum())
        assert total == pytest.approx(300 - n_positive, rel=0.5)
    assert weights.isfinite().all()
    assert len(kept) == 40


@pytest.mark.parametrize("is_weighted", [False, True], ids=["uniform", "weighted"])
def test_sample_of_one_row_is_the_smallest_key(is_weighted):
    keys = row_keys(0, torch.arange(50), 1)[:, 0]
    sample = ClassSample(1, 1, is_weighted)
    ones = torch.ones(50, dtype=torch.float64)
    for part in torch.arange(50).split(6):
        rows = SampledRows(ones[part, None], keys[part], part, ones[part])
        sample.add(rows, 0 * part)
    kept, _ = sample.rows(0)
    assert kept.keys.tolist() == [int(keys.min())]


def test_weighted_row_enters_as_often_as_its_weight_says():
    """The share of seeds that keep a row is the mean of one over its weights, where kept."""
    masses = torch.tensor([1.0] * 30 + [20.0] * 5 + [200.0], dtype=torch.float64)
    counts, totals = torch.zeros(36), torch.zeros(36, dtype=torch.float64)
    for seed in range(600):
        keys = row_keys(seed, torch.arange(36), 1)[:, 0]
        kept, weights = weighted_sample(keys, masses, 36, capacity=20).rows(0)
        counts[kept.tags] += 1
        totals[kept.tags] += weights
    assert counts[35] == 600  # the far row is never missed
    kinds = [slice(0, 30), slice(30, 35), slice(35, 36)]
    for kind in kinds:
        # an unbiased weight adds up to one a draw; the last kept key makes it a tenth too large
        assert 0.97 < float(totals[kind].mean()) / 600 < 1.25
