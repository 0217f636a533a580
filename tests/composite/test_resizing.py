"""Resizing as matrices, and norms from inner products, against explicit resizing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from captum_kmex.composite.resizing import (
    neighbour_products,
    norm_from_products,
    resample_keeping_mean,
    resize,
    resize_keeping_mean,
    resize_matrix,
    resized_at,
    transposed_resize,
)
from captum_kmex.composite.stack import StackedBlocks

SIZES = {
    "double": ((7, 7), (14, 14)),
    "fourfold": ((7, 5), (28, 20)),
    "odd": ((4, 6), (13, 21)),
    "down": ((9, 7), (4, 5)),
    "one_cell": ((1, 1), (5, 3)),
    "one_row": ((1, 6), (4, 9)),
    "one_column": ((6, 1), (9, 4)),
    "two_by_two": ((2, 2), (3, 7)),
}
sizes = pytest.mark.parametrize(("size", "to"), list(SIZES.values()), ids=list(SIZES))


def random_block(size: tuple[int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, *size, dtype=torch.float64, generator=generator)


@sizes
def test_norm_from_products_equals_norm_of_resized(size, to):
    block = random_block(size)
    expected = F.interpolate(block, to, mode="bilinear").square().sum(1, keepdim=True)
    assert torch.allclose(
        norm_from_products(neighbour_products(block), to).square(), expected, atol=1e-11
    )


@sizes
def test_resize_matrices_resize_both_sides(size, to):
    block = random_block(size)
    down, across = (
        resize_matrix(n, m, torch.float64, block.device) for n, m in zip(to, size, strict=True)
    )
    assert torch.allclose(down @ block @ across.T, resize(block, to), atol=1e-12)


@sizes
def test_transposed_resize_is_the_adjoint(size, to):
    small, large = random_block(size), random_block(to)
    forward = (resize(small, to) * large).sum()
    assert torch.allclose(forward, (small * transposed_resize(large, size)).sum(), atol=1e-11)


def test_neighbour_products_hold_cells_right_below_and_diagonals():
    block = random_block((3, 4))
    products = neighbour_products(block)
    cell, right, below, across = (block[0, :, y, x] for y, x in [(1, 1), (1, 2), (2, 1), (2, 2)])
    assert products[0, 0, 0, 1, 1] == pytest.approx(float(cell @ cell))
    assert products[0, 0, 1, 1, 1] == pytest.approx(2 * float(cell @ right))
    assert products[0, 1, 0, 1, 1] == pytest.approx(2 * float(cell @ below))
    diagonals = 2 * float(cell @ across + right @ below)
    assert products[0, 1, 1, 1, 1] == pytest.approx(diagonals)


def test_norm_from_products_serves_several_grids():
    block = random_block((5, 4))
    products = neighbour_products(block)
    for grid in [(5, 4), (10, 8), (7, 9)]:
        expected = resize(block, grid).norm(dim=1, keepdim=True)
        assert torch.allclose(norm_from_products(products, grid), expected, atol=1e-9)


def test_suffix_shares_inner_products_and_agrees_with_its_own():
    blocks = (random_block((8, 8)), random_block((4, 4)), random_block((2, 2)))
    stack = StackedBlocks(blocks, (1.0, 1.0, 1.0))
    shared = stack.suffix(1)
    assert shared._products[0] is stack._products[1]
    fresh = StackedBlocks(blocks[1:], (1.0, 1.0))
    for found, expected in zip(shared.scales, fresh.scales, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("size", [(7, 5), (12, 9), (3, 4)], ids=["same", "finer", "coarser"])
def test_vectors_at_positions_equal_the_whole_map_resized(size):
    block = torch.randn(3, 6, 7, 5, generator=torch.Generator().manual_seed(0)).double()
    whole = F.interpolate(block, size, mode="bilinear", align_corners=False)
    images = torch.tensor([2, 0, 1, 2, 2])
    rows, columns = torch.tensor([0, 2, 1, 2, 0]), torch.tensor([3, 0, 1, 1, 0])
    found = resized_at(block, size, images, rows, columns)
    torch.testing.assert_close(found, whole[images, :, rows, columns])


@sizes
def test_resampling_keeps_the_mean_either_way(size, to):
    for start, end in ((size, to), (to, size), (size, (to[0], 1)), (size, (2, to[1]))):
        block = random_block(start)
        found = resample_keeping_mean(block, end)
        assert found.shape == (2, 5, *end)
        torch.testing.assert_close(found.mean((2, 3)), block.mean((2, 3)), rtol=0, atol=1e-14)


@sizes
def test_resampling_to_more_cells_is_bilinear(size, to):
    more = (max(size[0], to[0]), max(size[1], to[1]))
    block = random_block(size)
    assert torch.equal(resample_keeping_mean(block, more), resize_keeping_mean(block, more))


@pytest.mark.parametrize(("size", "to"), [((9, 7), (4, 5)), ((12, 8), (3, 4)), ((5, 5), (1, 4))])
def test_resampling_to_fewer_cells_is_the_mean_of_what_each_covers(size, to):
    block = random_block(size)
    repeated = block.repeat_interleave(to[0], 2).repeat_interleave(to[1], 3)
    expected = F.avg_pool2d(repeated, size)  # each old cell as to[0] by to[1] equal parts
    torch.testing.assert_close(resample_keeping_mean(block, to), expected, rtol=0, atol=1e-14)


def test_resampling_sees_a_single_hot_cell_that_bilinear_resizing_passes_over():
    block = torch.zeros(1, 1, 9, 9)
    block[0, 0, 0, 0] = 81
    found = resample_keeping_mean(block, (3, 3))
    assert found[0, 0, 0, 0] == 9
    assert found.flatten()[1:].abs().max() == 0
    assert resize(block, (3, 3)).abs().max() == 0
