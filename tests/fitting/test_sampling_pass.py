"""What the first pass keeps is bounded, the same in any batches, and survives a file."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from captum_kmex.bank.representatives import cell_boxes
from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.data.batches import Batch
from captum_kmex.fitting.options import FitOptions, Observation
from captum_kmex.fitting.rows import PooledRows
from captum_kmex.fitting.sample import SLACK, row_keys
from captum_kmex.fitting.sampling_pass import Collection
from captum_kmex.fitting.summary import Summary

CPU = torch.device("cpu")
N_IMAGES, N_CLASSES, WIDTH, GRID = 30, 3, 4, (3, 5)
N_PIXELS = GRID[0] * GRID[1]
KINDS = ("pooled", "stacked")
CAPACITY = 7
BUDGET = int(CAPACITY * SLACK * 4 * WIDTH * N_CLASSES) + 1  # bytes for so many rows a class


@pytest.fixture(scope="module")
def maps() -> Tensor:
    return torch.rand(N_IMAGES, WIDTH, *GRID, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return torch.arange(N_IMAGES) % N_CLASSES


def observed(kind: str, maps: Tensor, labels: Tensor, indices: Tensor):
    """Return a batch and what a model might make of it."""
    own = maps[indices]
    batch = Batch((own,), labels[indices], indices)
    logits = torch.eye(N_CLASSES)[indices // 4 % N_CLASSES]
    pooled = own.mean((2, 3))
    source = PooledRows(pooled) if kind == "pooled" else StackedBlocks((own,), (1.0,))
    return batch, Observation(logits, [source], (1.0,), pooled)


def collection(kind: str, maps, y, /, *batches: Tensor, **options) -> Collection:
    found = Collection(FitOptions(2, **({"memory_budget": BUDGET} | options)), CPU)
    for indices in batches:
        found.add(*observed(kind, maps, y, indices))
    return found


def figures(summary: Summary) -> dict[str, object]:
    return {name: getattr(summary, name) for name in summary.state()}


def assert_same(ours: Collection, theirs: Collection) -> None:
    assert figures(ours.summary) == figures(theirs.summary)
    for mine, other in zip(ours.samples, theirs.samples, strict=True):
        assert torch.equal(mine.seen, other.seen)
        for c in range(len(mine.seen)):
            (a, weights_a), (b, weights_b) = mine.rows(c), other.rows(c)
            assert torch.equal(a.keys, b.keys)
            assert torch.equal(a.tags, b.tags)
            assert torch.allclose(a.rows, b.rows, atol=1e-6)
            assert weights_a is weights_b or torch.allclose(weights_a, weights_b)


everyone = torch.arange(N_IMAGES)
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
@pytest.mark.parametrize("size", [1, 4, 11])
def test_collection_does_not_depend_on_batches(kind, maps, labels, size):
    ours = collection(kind, maps, labels, *everyone.split(size))
    assert_same(ours, collection(kind, maps, labels, everyone))


@kinds
def test_collection_does_not_depend_on_order(kind, maps, labels):
    order = torch.randperm(N_IMAGES, generator=torch.Generator().manual_seed(1))
    ours = collection(kind, maps, labels, *order.split(4))
    assert_same(ours, collection(kind, maps, labels, everyone))


@kinds
def test_rows_kept_are_bounded_by_the_budget(kind, maps, labels):
    found = Collection(FitOptions(2, memory_budget=BUDGET), CPU)
    for turn in range(5):
        for indices in everyone.split(2):
            batch, seen = observed(kind, maps, labels, indices)
            shifted = Batch(batch.inputs, batch.targets, indices + turn * N_IMAGES)
            found.add(shifted, seen)
            held = [len(held) for held in found.samples[0]._buffers]
            assert sum(held) * 4 * WIDTH <= BUDGET
    assert [found.samples[0].kept(c) for c in range(N_CLASSES)] == [CAPACITY] * N_CLASSES


@kinds
def test_every_row_is_kept_where_the_budget_allows(kind, maps, labels):
    found = collection(kind, maps, labels, *everyone.split(4), memory_budget=2**30)
    pixels = 1 if kind == "pooled" else N_PIXELS
    for c in range(N_CLASSES):
        kept, weights = found.samples[0].rows(c)
        assert len(kept) == found.samples[0].seen[c] == N_IMAGES // N_CLASSES * pixels
        assert weights is None if kind == "stacked" else (weights == 1).all()


def test_summary_counts_images_and_range(maps, labels):
    found = collection("pooled", maps, labels, *everyone.split(7))
    found.share()
    summary = found.summary
    assert (summary.n_classes, summary.n_images, summary.weights) == (N_CLASSES, N_IMAGES, (1.0,))
    assert (summary.low, summary.high) == (float(maps.min()), float(maps.max()))
    assert summary.seen == (10, 10, 10)
    assert summary.kept == (CAPACITY,) * 3


def test_summary_comes_back_from_tensors():
    summary, read = Summary(), Summary()
    summary.n_logits, summary.weights, summary.n_images = 3, (1.0, 0.25), 2**40
    summary.low, summary.high = -1e-7, 3.5
    summary.seen, summary.kept = (1, 2, 0), (1, 1, 0)
    read.restore(summary.state())
    assert figures(read) == figures(summary)
    assert isinstance(read.n_images, int)


@kinds
@pytest.mark.parametrize("cut", [4, 16, 28])
def test_collection_saved_and_read_goes_on_as_if_it_had_not_been(kind, maps, labels, cut):
    before, after = everyone[:cut].split(4), everyone[cut:].split(4)
    whole = collection(kind, maps, labels, *before, *after)
    read = Collection(FitOptions(2, memory_budget=BUDGET), CPU)
    read.restore(collection(kind, maps, labels, *before).state())
    for indices in after:
        read.add(*observed(kind, maps, labels, indices))
    ours, theirs = read.state(), whole.state()
    assert ours.keys() == theirs.keys()
    order = {c: theirs[f"0.keys.{c}"].argsort() for c in range(N_CLASSES)}
    for name, tensor in ours.items():
        field, _, c = name.removeprefix("0.").partition(".")
        if field in ("rows", "keys", "tags", "masses", "places"):
            mine = ours[f"0.keys.{c}"].argsort()
            assert torch.equal(tensor[mine], theirs[name][order[int(c)]])
        else:
            assert torch.equal(tensor, theirs[name])


def test_tags_of_a_class_agnostic_sample_are_predictions(maps, labels):
    found = collection("stacked", maps, labels, everyone, labels=None)
    (sample,) = found.samples
    assert sample.seen.tolist() == [N_IMAGES * N_PIXELS]
    keys = row_keys(0, everyone, N_PIXELS)
    kept, _ = sample.rows(0)
    images = torch.cat([(keys == key).nonzero()[:, 0] for key in kept.keys])
    assert torch.equal(kept.tags, images // 4 % N_CLASSES)
    assert len(kept.tags.unique()) == N_CLASSES


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_kept_beside_the_image_and_box_they_are_of(kind, maps, labels):
    found = collection(kind, maps, labels, *everyone.split(4))
    kept, _ = found.samples[0].rows(1)
    pixels = 1 if kind == "pooled" else N_PIXELS
    keys = row_keys(0, everyone, pixels)
    images, cells = (keys == kept.keys[:, None, None]).nonzero()[:, 1:].T
    grid = (1, 1) if kind == "pooled" else GRID
    assert torch.equal(kept.places[:, 0], images)
    assert torch.equal(kept.places[:, 1:], cell_boxes(cells, grid, GRID))  # inputs are the maps


@pytest.mark.parametrize("options", [{"n_representatives": 0}, {"patch_search": "exact"}])
def test_places_are_not_kept_where_nobody_asks(maps, labels, options):
    found = collection("stacked", maps, labels, everyone, **options)
    assert found.samples[0].rows(0)[0].places is None
    assert not [name for name in found.state() if "places" in name]


def test_only_wanted_classes_share_the_budget(maps, labels):
    found = collection("stacked", maps, labels, everyone, classes=(1,))
    assert [found.samples[0].kept(c) for c in range(N_CLASSES)] == [0, 3 * CAPACITY, 0]


def test_multi_hot_image_is_offered_to_each_of_its_classes(maps):
    hot = torch.zeros(N_IMAGES, N_CLASSES, dtype=torch.int64)
    hot[:, 0] = 1
    hot[:10, 1] = 1
    found = collection("pooled", maps, hot, *everyone.split(4))
    assert found.samples[0].seen.tolist() == [30, 10, 0]


def test_collection_of_nothing_raises():
    with pytest.raises(ValueError, match="the loader yielded no batch"):
        Collection(FitOptions(2), CPU).share()


@pytest.mark.parametrize("budget", [0, 10])
def test_budget_below_a_row_raises(maps, labels, budget):
    with pytest.raises(ValueError, match=f"memory_budget={budget} bytes is less than one row"):
        collection("pooled", maps, labels, everyone, memory_budget=budget)
