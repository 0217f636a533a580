"""The fused composite against the naive one: resize, normalise, concatenate, cdist."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from captum_kmex.composite import stack as stacking
from captum_kmex.composite.resizing import neighbour_products, norm_from_products
from captum_kmex.composite.stack import (
    StackedBlocks,
    resize,
    resize_keeping_mean,
)
from captum_kmex.composite.weighting import block_weights

# entries are of order 1 and widths below 20: a few hundred roundings
TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-11}

GRIDS = {
    "integer_ratios": [(8, 8), (4, 4), (2, 2)],
    "odd_ratios": [(13, 21), (7, 11), (4, 6)],
    "deeper_is_finer": [(4, 5), (9, 7)],
    "one_cell": [(5, 6), (1, 1)],
    "single_block": [(6, 7)],
}
grids = pytest.mark.parametrize("sizes", list(GRIDS.values()), ids=list(GRIDS))
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])


def random_stack(sizes, dtype=torch.float64, images=3, seed=0) -> StackedBlocks:
    generator = torch.Generator().manual_seed(seed)
    blocks = [
        torch.randn(images, 4 + i, *size, generator=generator, dtype=torch.float64).to(dtype)
        for i, size in enumerate(sizes)
    ]
    return StackedBlocks(tuple(blocks), tuple(1.0 + 0.5 * i for i in range(len(sizes))))


def random_prototypes(stack: StackedBlocks, count: int, *lead: int) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    shape = (*lead, count, stack.width)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(stack.blocks[0])


def naive_rows(stack: StackedBlocks) -> Tensor:
    """Concatenate the resized, normalised, weighted blocks: (N, H, W, D)."""
    parts = []
    for block, weight in zip(stack.blocks, stack.weights, strict=True):
        up = F.interpolate(block, stack.grid, mode="bilinear", align_corners=False)
        parts.append(weight * F.normalize(up, dim=1, eps=torch.finfo(up.dtype).eps))
    return torch.cat(parts, 1).permute(0, 2, 3, 1)


def naive_distances(stack: StackedBlocks, prototypes: Tensor) -> Tensor:
    """Return squared distances (N, H, W, K) by explicit differences."""
    return (naive_rows(stack).unsqueeze(3) - prototypes).square().sum(-1)


@pytest.fixture(params=["chunks", "strips", "strips_of_one_row"])
def route(request, monkeypatch) -> str:
    """Both ways of finding the nearest prototype, whatever the number of prototypes."""
    if request.param != "chunks":
        monkeypatch.setattr(stacking, "_FEW_PROTOTYPES", 0)
    if request.param == "strips_of_one_row":
        monkeypatch.setattr(stacking, "_STRIP_SCORES", 1)
    return request.param


@grids
def test_nearest_picks_naive_argmin(sizes, route):
    stack = random_stack(sizes)
    prototypes = random_prototypes(stack, 7)
    index, _ = stack.nearest(prototypes)
    assert torch.equal(index, naive_distances(stack, prototypes).argmin(-1))


@grids
@dtypes
def test_nearest_returns_naive_distance(sizes, dtype, route):
    stack = random_stack(sizes, dtype)
    prototypes = random_prototypes(stack, 7)
    _, distances = stack.nearest(prototypes)
    expected = naive_distances(stack, prototypes).amin(-1)
    assert distances.dtype == dtype
    assert torch.allclose(distances, expected, atol=10 * TOLERANCE[dtype], rtol=0)


@grids
@dtypes
def test_rows_equal_naive_concatenation(sizes, dtype):
    stack = random_stack(sizes, dtype)
    n, h, w = len(stack.blocks[0]), *stack.grid
    images = torch.arange(n).repeat_interleave(h * w)
    rows = stack.rows(images, torch.arange(h * w).repeat(n))
    expected = naive_rows(stack).flatten(0, 2)
    assert torch.allclose(rows, expected, atol=TOLERANCE[dtype], rtol=0)


@grids
@dtypes
def test_norm_from_products_equals_norm_of_resized(sizes, dtype):
    stack = random_stack(sizes, dtype)
    for block in stack.blocks:
        expected = resize(block, stack.grid).norm(dim=1, keepdim=True)
        found = norm_from_products(neighbour_products(block), stack.grid)
        # the squared norm is what is summed; its root loses digits where it is small
        assert torch.allclose(found.square(), expected.square(), atol=10 * TOLERANCE[dtype], rtol=0)


@grids
@dtypes
def test_squared_norms_equal_naive_rows(sizes, dtype):
    stack = random_stack(sizes, dtype)
    expected = naive_rows(stack).square().sum(-1)
    assert torch.allclose(stack.squared_norms, expected, atol=TOLERANCE[dtype], rtol=1e-5)


@grids
@dtypes
def test_scores_equal_naive_products(sizes, dtype):
    stack = random_stack(sizes, dtype)
    prototypes = random_prototypes(stack, 3)
    expected = naive_rows(stack) @ prototypes.T - 0.5 * prototypes.square().sum(1)
    found = stack.scores(prototypes).permute(0, 2, 3, 1)
    assert torch.allclose(found, expected, atol=10 * TOLERANCE[dtype], rtol=0)


@grids
@dtypes
def test_sums_equal_naive_sums_of_members(sizes, dtype):
    stack = random_stack(sizes, dtype)
    n, (h, w) = len(stack.blocks[0]), stack.grid
    labels = torch.randint(4, (n, h, w), generator=torch.Generator().manual_seed(3))
    members = F.one_hot(labels, 4).permute(0, 3, 1, 2).to(dtype)
    expected = torch.einsum("nkhw,nhwd->nkd", members, naive_rows(stack))
    assert torch.allclose(stack.sums(members), expected, atol=h * w * TOLERANCE[dtype], rtol=0)


@dtypes
def test_nearest_of_many_prototypes_equals_naive(dtype):
    stack = random_stack(GRIDS["odd_ratios"], dtype)
    prototypes = random_prototypes(stack, 300)
    index, distances = stack.nearest(prototypes)
    expected = naive_distances(stack, prototypes)
    chosen = expected.gather(3, index.unsqueeze(3)).squeeze(3)
    # in float32 two of 300 prototypes may be equally near to rounding; either will do
    assert torch.allclose(chosen, expected.amin(-1), atol=10 * TOLERANCE[dtype], rtol=0)
    assert torch.allclose(distances, expected.amin(-1), atol=10 * TOLERANCE[dtype], rtol=0)


def test_nearest_after_inference_mode_gives_same_result(route):
    stack = random_stack([(11, 17), (5, 9)])
    prototypes = random_prototypes(stack, 6)
    with torch.inference_mode():
        inside, _ = random_stack([(11, 17), (5, 9)]).nearest(prototypes)
    index, _ = stack.nearest(prototypes)
    assert torch.equal(index, inside)


def test_nearest_is_unchanged_by_chunks_of_prototypes(monkeypatch):
    stack = random_stack(GRIDS["odd_ratios"])
    prototypes = random_prototypes(stack, 11)
    whole = stack.nearest(prototypes)
    monkeypatch.setattr(stacking, "_SCORES_BYTES", 4 * 3 * 13 * 21 * 2)  # two at a time
    chunked = stack.nearest(prototypes)
    assert torch.equal(chunked[0], whole[0])
    assert torch.allclose(chunked[1], whole[1], atol=1e-12, rtol=0)


def test_nearest_calls_scores_once_a_chunk(monkeypatch):
    stack = random_stack(GRIDS["single_block"])
    sizes = []
    original = StackedBlocks.scores
    monkeypatch.setattr(
        StackedBlocks, "scores", lambda self, p: sizes.append(p.shape[-2]) or original(self, p)
    )
    monkeypatch.setattr(stacking, "_SCORES_BYTES", 4 * 3 * 6 * 7 * 2)
    stack.nearest(random_prototypes(stack, 5))
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize("budget", [1, 2**26], ids=["one_a_chunk", "one_chunk"])
def test_nearest_takes_lowest_index_at_ties(monkeypatch, budget, route):
    monkeypatch.setattr(stacking, "_SCORES_BYTES", budget)
    stack = random_stack(GRIDS["integer_ratios"])
    index, _ = stack.nearest(random_prototypes(stack, 1).expand(4, -1))
    assert (index == 0).all()


@pytest.mark.parametrize("budget", [1, 2**26], ids=["one_a_chunk", "one_chunk"])
def test_nearest_uses_each_images_own_prototypes(monkeypatch, budget, route):
    monkeypatch.setattr(stacking, "_SCORES_BYTES", budget)
    stack = random_stack(GRIDS["odd_ratios"])
    prototypes = random_prototypes(stack, 5, 3)
    index, distances = stack.nearest(prototypes)
    for i in range(3):
        alone = StackedBlocks(tuple(b[i : i + 1] for b in stack.blocks), stack.weights)
        expected = naive_distances(alone, prototypes[i])[0]
        assert torch.equal(index[i], expected.argmin(-1))
        assert torch.allclose(distances[i], expected.amin(-1), atol=1e-10, rtol=0)


def test_nearest_distance_is_never_negative_at_a_prototype(route):
    stack = random_stack(GRIDS["odd_ratios"], torch.float32)
    row = stack.rows(torch.tensor([1]), torch.tensor([40]))
    _, distances = stack.nearest(row)
    assert distances.min() >= 0
    assert distances[1].flatten()[40] < 1e-5


def test_zero_vectors_give_zero_rows_without_nan():
    blocks = (torch.zeros(1, 3, 4, 4), torch.ones(1, 2, 2, 2))
    stack = StackedBlocks(blocks, (1.0, 2.0))
    rows = stack.rows(torch.zeros(16, dtype=torch.int64), torch.arange(16))
    assert (rows[:, :3] == 0).all()
    assert torch.allclose(stack.squared_norms, torch.full((1, 4, 4), 4.0))


def test_scale_of_a_block_does_not_change_rows():
    stack = random_stack(GRIDS["odd_ratios"])
    louder = StackedBlocks((stack.blocks[0] * 1000, *stack.blocks[1:]), stack.weights)
    prototypes = random_prototypes(stack, 4)
    assert torch.allclose(louder.scores(prototypes), stack.scores(prototypes), atol=1e-11)


def test_suffix_drops_shallow_blocks_and_takes_their_grid():
    stack = random_stack(GRIDS["odd_ratios"])
    deep = stack.suffix(1)
    assert (deep.grid, deep.width, deep.weights) == ((7, 11), 5 + 6, (1.5, 2.0))


def test_suffix_keeps_nave_weights_of_the_whole_stack():
    blocks = tuple(torch.rand(2, width, 4, 4) for width in (3, 7, 15))
    stack = StackedBlocks(blocks, block_weights("nave", [3, 7, 15]))
    assert [stack.suffix(depth).weights for depth in range(3)] == [
        (1.0, 0.5, 0.25),
        (0.5, 0.25),
        (0.25,),
    ]


@pytest.mark.parametrize(
    ("size", "to"),
    [((4, 6), (7, 11)), ((7, 11), (13, 21)), ((7, 7), (4, 5)), ((1, 1), (5, 3)), ((3, 4), (6, 8))],
    ids=["odd", "odder", "down", "one_cell", "integer"],
)
@dtypes
def test_resize_keeping_mean_keeps_each_mean(size, to, dtype):
    maps = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(dtype)
    resized = resize_keeping_mean(maps, to)
    assert resized.shape == (2, 3, *to)
    assert torch.allclose(resized.mean((2, 3)), maps.mean((2, 3)), atol=TOLERANCE[dtype], rtol=0)


def test_resize_keeps_mean_at_integer_ratios():
    maps = torch.randn(2, 3, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = maps.mean((2, 3))
    assert torch.allclose(resize(maps, (28, 10)).mean((2, 3)), expected, atol=1e-14)


def test_resize_keeping_mean_shifts_evenly_at_odd_ratios():
    maps = torch.randn(1, 1, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shift = resize_keeping_mean(maps, (7, 11)) - resize(maps, (7, 11))
    assert shift.std() < 1e-12
    assert shift.mean().abs() > 1e-6  # there was something to restore


def test_resize_returns_same_maps_at_same_size():
    maps = torch.ones(1, 1, 3, 4)
    assert resize(maps, (3, 4)) is maps
