"""The tail over the forward pass, beside the naive way to the same map."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from benchmarks.layer_outputs import layer_outputs
from benchmarks.speed.cases import Case
from benchmarks.speed.naive import assert_nearest, naive_map, naive_rows, naive_tail
from benchmarks.speed.recorder import Recorder
from benchmarks.speed.setting import LAYERS, Setting, make_setting
from benchmarks.speed.tail import AfterForward, Tail
from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.composite.weighting import block_weights
from captum_kmex.explaining.image_clusters import cluster_image_rows

_ROUNDS = {1: 15, 8: 9, 32: 5}
_LARGE, _LARGE_ROUNDS = 1024, 3  # pixels along a side from which a forward pass takes seconds
_FEW_CLUSTERS, _CLUSTERS = 5, 20  # as NAVE, and our default
# than scikit-learn's k-means of each image, which starts once; noise has no twenty clusters
_MORE_INERTIA = {_FEW_CLUSTERS: 1.05, _CLUSTERS: 1.1}
_MORE_ON_PHOTOGRAPHS = 1.05
_STACKS = (("layer4",), LAYERS[1:], LAYERS, ("layer1", *LAYERS))


@dataclass(frozen=True)
class TailCase(Case):
    """A shape: prototypes (0: unfitted), batch, side of the image and layers."""

    n_prototypes: int = 50
    batch: int = 1
    size: int | None = None
    layers: tuple[str, ...] = LAYERS
    n_clusters: int = _FEW_CLUSTERS


def _fitted_cases(
    counts: list[int], batches: list[int], sizes: list[int], few: int, many: int
) -> list[TailCase]:
    by_count = [TailCase("tail, prototypes", f"K={k}", k) for k in counts]
    by_batch = [
        TailCase("tail, batch", f"batch {batch}, K={k}", k, batch)
        for batch in batches
        for k in (few, many)
    ]
    by_size = [
        TailCase("tail, image size", f"{size} x {size}, K={k}", k, 1, size)
        for size in sizes
        for k in ((few, many) if size < _LARGE else (few,))
    ]
    by_layers = [
        TailCase("tail, layers", f"{len(stack)} layers from {stack[0]}", few, 1, None, stack)
        for stack in _STACKS
    ]
    return by_count + by_batch + by_size + by_layers


def _unfitted_cases(batches: list[int]) -> list[TailCase]:
    return [
        TailCase("tail, unfitted", f"batch {batch}, {k} clusters", 0, batch, n_clusters=k)
        for batch in batches
        for k in (_FEW_CLUSTERS, _CLUSTERS)
    ]


def _same_cases() -> list[TailCase]:
    tables = ("prototypes", "batch", "image size", "layers")
    same = [TailCase(f"tail, {table}", "K=50, against itself", 50) for table in tables]
    return [*same, TailCase("tail, unfitted", "batch 1, 5 clusters, against itself", 0)]


@pytest.mark.cases(
    short=_fitted_cases([20, 300], [2], [96], 20, 300),
    full=_fitted_cases(
        [10, 50, 200, 500, 2000, 10000], [1, 8, 32], [96, 128, 224, 448, 512, 2048], 50, 2000
    ),
)
def test_fitted_tail(case: TailCase, record: Recorder, is_full: bool) -> None:
    setting = make_setting(is_full, case.batch, case.size, case.layers)
    tail = Tail(setting, case.n_prototypes)
    books = [book.centroids for book in tail.attribution.bank_.codebooks]
    naive = partial(naive_tail, tail.blocks, setting.column, books)
    maps = _time(record, setting, tail, {"naive": naive})
    record.values(labels_equal=_check_fitted(setting, tail, maps, books))


@pytest.mark.cases(short=_same_cases(), full=_same_cases())
def test_same_tail_twice(case: TailCase, record: Recorder, is_full: bool) -> None:
    setting = make_setting(is_full, case.batch)
    tail = Tail(setting, case.n_prototypes)
    maps = _time(record, setting, tail, {"itself": tail})
    assert torch.equal(maps, tail())


@pytest.mark.cases(short=_unfitted_cases([2]), full=_unfitted_cases([1, 8, 32]))
def test_unfitted_tail(case: TailCase, record: Recorder, is_full: bool) -> None:
    setting = make_setting(is_full, case.batch)
    tail = Tail(setting, 0, case.n_clusters)
    naive = partial(_clustered_naively, tail.blocks, setting.column, case.n_clusters)
    maps = _time(record, setting, tail, {"naive": naive})
    _check_unfitted(setting, tail, maps)
    _, theirs = naive()
    rows = naive_rows(tail.blocks)
    inertia = _inertia(rows, tail.labels(0), case.batch) / _inertia(rows, theirs[0], case.batch)
    assert inertia <= _MORE_INERTIA[case.n_clusters]
    record.values(inertia=inertia)


@dataclass(frozen=True)
class PhotographCase(Case):
    """A weighting of the layers, of photographs and a trained network."""

    weighting: str


def _photograph_cases() -> list[PhotographCase]:
    table = "an image's own 20 clusters, photographs"
    return [PhotographCase(table, name, name) for name in ("dimension", "balanced")]


@pytest.mark.cases(short=_photograph_cases()[:1], full=_photograph_cases())
def test_clusters_of_photographs(case: PhotographCase, record: Recorder) -> None:
    """The finest grid's clusters, beside scikit-learn's of the same rows."""
    demo = pytest.importorskip("captum_kmex.demo", reason="needs the extra demo")
    images = demo.load_photographs()[2]
    blocks = layer_outputs(demo.load_efficientnet_lite0(), demo.PHOTO_LAYERS, images)
    weights = block_weights(case.weighting, [block.shape[1] for block in blocks])
    stack = StackedBlocks(tuple(blocks), weights)
    cells = math.prod(stack.grid)
    pixels = torch.arange(cells).repeat(len(images))
    rows = stack.rows(torch.arange(len(images)).repeat_interleave(cells), pixels)
    found = record.once(lambda: stack.best(cluster_image_rows(stack, _CLUSTERS))[1])
    solved = [
        KMeans(_CLUSTERS, n_init=1, random_state=0).fit(own.numpy())
        for own in rows.chunk(len(images))
    ]
    theirs = torch.cat([torch.from_numpy(one.labels_).long() for one in solved])
    assert sum(one.inertia_ for one in solved) == pytest.approx(
        _inertia(rows, theirs, len(images)), rel=1e-4
    )
    ratio = _inertia(rows, found.flatten(), len(images)) / _inertia(rows, theirs, len(images))
    assert ratio <= _MORE_ON_PHOTOGRAPHS
    record.values(inertia=ratio)


def _time(
    record: Recorder, setting: Setting, tail: Tail, others: Mapping[str, Callable[[], object]]
) -> Tensor:
    """Time the tail and the others, each after a forward pass; return the tail's maps."""
    calls: dict[str, Callable[[], object]] = {"subject": tail, **others}
    watches = {name: AfterForward(setting, call) for name, call in calls.items()}
    rounds = _ROUNDS.get(len(setting.images), 2)
    if setting.images.shape[-1] >= _LARGE:
        rounds = _LARGE_ROUNDS
    seconds = record.interleave(watches, rounds)
    # without the warm-up's
    forwards = watches["subject"].forwards[-len(seconds["subject"]) :]
    record.seconds(seconds | {"forward": forwards})
    return record.once(tail)


def _check_fitted(setting: Setting, tail: Tail, maps: Tensor, books: list[Tensor]) -> float:
    """Assert nearest labels at every depth, and the map that follows from them."""
    _, expected = naive_tail(tail.blocks, setting.column, books)
    equal = 1.0
    for depth, labels in enumerate(expected):
        rows = naive_rows(tail.blocks[depth:])
        equal = min(equal, assert_nearest(rows, books[depth], tail.labels(depth), labels))
    _check_unfitted(setting, tail, maps)
    return equal


def _check_unfitted(setting: Setting, tail: Tail, maps: Tensor) -> None:
    """Assert that the map is that of its own labels, and adds up to the logit."""
    labels = [tail.labels(depth) for depth in range(len(tail.blocks) - 1)]
    expected = naive_map(tail.blocks, setting.column, labels)
    scale = float(expected.abs().max())
    torch.testing.assert_close(maps, expected, atol=1e-4 * scale, rtol=1e-4)
    total = maps.flatten(1).sum(1) + setting.bias
    torch.testing.assert_close(total, setting.output, atol=1e-4, rtol=1e-4)


def _clustered_naively(
    blocks: list[Tensor], column: Tensor, n_clusters: int
) -> tuple[Tensor, list[Tensor]]:
    """Cluster every image's rows at every depth by scikit-learn, one start."""
    labels = []
    for depth in range(len(blocks) - 1):
        images = naive_rows(blocks[depth:]).chunk(len(column))
        k = min(n_clusters, len(images[0]))
        solved = [KMeans(k, n_init=1, random_state=0).fit(rows.numpy()) for rows in images]
        labels.append(torch.cat([torch.from_numpy(found.labels_).long() for found in solved]))
    return naive_map(blocks, column, labels), labels


def _inertia(rows: Tensor, labels: Tensor, images: int) -> float:
    """Return the summed squared distance to the mean of each image's segments."""
    images_of = torch.arange(images).repeat_interleave(len(rows) // images)
    segment = images_of * (int(labels.max()) + 1) + labels
    sizes = torch.bincount(segment).clamp_min(1).double()
    sums = torch.zeros(len(sizes), rows.shape[1], dtype=torch.float64)
    sums.index_add_(0, segment, rows.double())
    return float((rows.double() - (sums / sizes[:, None])[segment]).square().sum())
