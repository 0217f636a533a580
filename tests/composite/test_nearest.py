"""Nearest prototypes at once and by tiles against explicit distances of explicit rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from captum_kmex.composite import nearest
from captum_kmex.composite.nearest import nearest_at_once, nearest_by_tiles
from captum_kmex.composite.packed import PackedPrototypes
from captum_kmex.composite.stack import StackedBlocks

GRIDS = {
    "integer_ratios": [(28, 28), (14, 14), (7, 7)],
    "odd_ratios": [(13, 37), (7, 11), (4, 6)],
    "deeper_is_finer": [(4, 5), (9, 7)],
    "one_row": [(1, 20), (1, 3)],
    "one_column": [(20, 1), (3, 1)],
    "four_blocks": [(16, 12), (8, 6), (4, 3), (2, 2)],
    "single_block": [(6, 7)],
}
grids = pytest.mark.parametrize("sizes", list(GRIDS.values()), ids=list(GRIDS))


def random_stack(sizes, images=3, dtype=torch.float64) -> StackedBlocks:
    generator = torch.Generator().manual_seed(0)
    blocks = [
        torch.randn(images, 3 + i, *size, generator=generator, dtype=dtype)
        for i, size in enumerate(sizes)
    ]
    return StackedBlocks(tuple(blocks), tuple(1.0 + 0.5 * i for i in range(len(sizes))))


def random_prototypes(stack: StackedBlocks, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(*shape, stack.width, generator=generator, dtype=stack.blocks[0].dtype)


def naive_distances(stack: StackedBlocks, prototypes: Tensor) -> Tensor:
    """Resize, normalise, weight, concatenate in float64; squared distances (N, H, W, K)."""
    parts = []
    for block, weight in zip(stack.blocks, stack.weights, strict=True):
        up = F.interpolate(block.double(), stack.grid, mode="bilinear", align_corners=False)
        parts.append(weight * F.normalize(up, dim=1))
    rows = torch.cat(parts, 1).permute(0, 2, 3, 1)
    return (rows.unsqueeze(3) - prototypes.double()).square().sum(-1)


@pytest.fixture(params=["at_once", "tiles", "small_tiles", "chunks"])
def route(request, monkeypatch):
    """Every way to the nearest prototype, with tiles of few pixels and of few prototypes."""
    if request.param == "at_once":
        return nearest_at_once
    if request.param == "chunks":
        monkeypatch.setattr(nearest, "_PROTOTYPES", 2)
    scores = 40 if request.param == "small_tiles" else 2**18
    return lambda stack, prototypes: nearest_by_tiles(stack, prototypes, scores)


@grids
def test_route_picks_naive_argmin(sizes, route):
    stack = random_stack(sizes)
    prototypes = random_prototypes(stack, 11)
    best, index = route(stack, PackedPrototypes(prototypes))
    expected = naive_distances(stack, prototypes)
    assert torch.equal(index, expected.argmin(3))
    assert torch.allclose(stack.distances(best), expected.amin(3), atol=1e-10, rtol=0)


@grids
def test_route_uses_each_images_own_prototypes(sizes, route):
    stack = random_stack(sizes)
    prototypes = random_prototypes(stack, 3, 11)
    _, index = route(stack, PackedPrototypes(prototypes))
    for i in range(3):
        assert torch.equal(index[i], naive_distances(stack, prototypes[i])[i].argmin(2))


def test_route_in_float32_finds_a_nearest_prototype(route):
    stack = random_stack(GRIDS["integer_ratios"], dtype=torch.float32)
    prototypes = random_prototypes(stack, 300)
    _, index = route(stack, PackedPrototypes(prototypes))
    expected = naive_distances(stack, prototypes)
    chosen = expected.gather(3, index.unsqueeze(3)).squeeze(3)
    # two of 300 prototypes may be equally near to rounding; either will do
    assert torch.allclose(chosen, expected.amin(3), atol=1e-5, rtol=0)


def test_route_takes_lowest_index_at_ties(route):
    stack = random_stack(GRIDS["integer_ratios"])
    same = random_prototypes(stack, 1).expand(4, -1)
    _, index = route(stack, PackedPrototypes(same))
    assert (index == 0).all()


def test_route_gives_image_the_same_alone(route):
    stack = random_stack(GRIDS["odd_ratios"])
    prototypes = PackedPrototypes(random_prototypes(stack, 11))
    together, _ = route(stack, prototypes)
    for i in range(3):
        alone = StackedBlocks(tuple(b[i : i + 1] for b in stack.blocks), stack.weights)
        assert torch.allclose(route(alone, prototypes)[0][0], together[i], atol=1e-12)


@pytest.mark.parametrize("products", [1, 400], ids=["one_by_one", "two_and_a_rest"])
def test_tiles_do_not_depend_on_images_multiplied_together(monkeypatch, products):
    stack = random_stack(GRIDS["odd_ratios"])
    prototypes = PackedPrototypes(random_prototypes(stack, 2))
    whole = nearest_by_tiles(stack, prototypes, 2**18)
    monkeypatch.setattr(nearest, "_PRODUCTS", products)  # 101 deeper cells, 2 prototypes
    parts = nearest_by_tiles(stack, prototypes, 2**18)
    assert torch.equal(parts[1], whole[1])
    assert torch.allclose(parts[0], whole[0], atol=1e-12, rtol=0)


def test_zero_vectors_go_to_the_prototype_nearest_to_the_rest(route):
    blocks = (torch.zeros(1, 3, 4, 4), torch.ones(1, 2, 2, 2))
    stack = StackedBlocks(blocks, (1.0, 2.0))
    prototypes = torch.tensor([[9.0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, -1, -1]])
    _, index = route(stack, PackedPrototypes(prototypes))
    assert (index == 1).all()


@grids
def test_tiling_lists_every_pixel_once(sizes):
    tiling = nearest._tiling(sizes[0], tuple(sizes[1:]), 16, torch.float64)
    assert tiling.pixels.sort().values.tolist() == list(range(sizes[0][0] * sizes[0][1]))
    assert torch.equal(tiling.pixels[tiling.positions], torch.arange(len(tiling.pixels)))
    assert tiling.bounds[-1] == len(tiling.pixels)


@grids
def test_tiling_weights_resize_as_interpolate_does(sizes):
    tiling = nearest._tiling(sizes[0], tuple(sizes[1:]), 16, torch.float64)
    for size, cells, weights in zip(sizes[1:], tiling.cells, tiling.weights, strict=True):
        values = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        expected = F.interpolate(values[None, None], sizes[0], mode="bilinear").flatten()
        for tile, start in enumerate(tiling.bounds[:-1]):
            own = slice(start, tiling.bounds[tile + 1])
            found = values.flatten()[cells[tile]] @ weights[:, own]
            assert torch.allclose(found, expected[tiling.pixels[own]], atol=1e-12)


def test_tiling_of_halved_grids_draws_on_few_cells():
    tiling = nearest._tiling((28, 28), ((14, 14), (7, 7)), 64, torch.float32)
    assert [cells.shape[1] for cells in tiling.cells] == [3 * 8, 3 * 4]
