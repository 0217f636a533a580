"""Nearest training patches against a brute-force search."""

from __future__ import annotations

import pytest
import torch
from machines import share
from torch import Tensor

from captum_kmex.bank.codebook import Codebook
from captum_kmex.bank.representatives import Representatives, cell_boxes
from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.fitting.patch_pass import NearestPatches

N_IMAGES, GRID, SIZE = 12, (4, 6), (13, 21)
MEMBERSHIP = torch.tensor([0, 0, 1, 2, 2])
CLASSES = torch.arange(N_IMAGES) % 3


@pytest.fixture
def features() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N_IMAGES, 5, *GRID, generator=generator, dtype=torch.float64)


@pytest.fixture
def prototypes() -> Tensor:
    return torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def empty(prototypes: Tensor, membership: Tensor, count: int) -> NearestPatches:
    counts = torch.ones(len(prototypes), dtype=torch.int64)
    return NearestPatches(Codebook(prototypes, membership, counts, counts.double()), count)


def search(features, prototypes, membership, count, batch=5, order=None) -> Representatives:
    found = empty(prototypes, membership, count)
    order = torch.arange(N_IMAGES) if order is None else order
    for indices in order.split(batch):
        source = StackedBlocks((features[indices],), (1.0,))
        pairs = torch.arange(len(indices)), CLASSES[indices]
        found.add(source, pairs, indices, SIZE)
    return found.result()


def brute_force(features, prototypes, k, allowed) -> list[tuple[float, int, int]]:
    """Return distance, image and cell of the nearest cell of each allowed image, in order."""
    unit = features / features.norm(dim=1, keepdim=True)
    best = []
    for i in allowed:
        far = (unit[i].flatten(1).T - prototypes[k]).norm(dim=1)
        best.append((float(far.min()), i, int(far.argmin())))
    return sorted(best)


def own_images(k: int) -> list[int]:
    return (MEMBERSHIP[k] == CLASSES).nonzero().squeeze(1).tolist()


@pytest.mark.parametrize("batch", [1, 5, 12])
def test_patches_equal_brute_force_over_own_class(features, prototypes, batch):
    found = search(features, prototypes, MEMBERSHIP, 3, batch)
    for k in range(5):
        expected = brute_force(features, prototypes, k, own_images(k))[:3]
        assert found.indices[k].tolist() == [i for _, i, _ in expected]
        # distances are roots of differences of order 1: half the digits near zero, far from it
        assert found.distances[k].tolist() == pytest.approx([d for d, _, _ in expected], abs=1e-9)
        boxes = [cell_boxes(torch.tensor(c), GRID, SIZE).tolist() for _, _, c in expected]
        assert found.boxes[k].tolist() == boxes


def test_patches_do_not_depend_on_order_of_images(features, prototypes):
    order = torch.randperm(N_IMAGES, generator=torch.Generator().manual_seed(2))
    expected = search(features, prototypes, MEMBERSHIP, 3)
    found = search(features, prototypes, MEMBERSHIP, 3, 4, order)
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.boxes, expected.boxes)


def test_patches_of_class_agnostic_prototypes_come_from_all_images(features, prototypes):
    found = search(features, prototypes, torch.ones(5, 3) / 3, 4)
    for k in range(5):
        expected = brute_force(features, prototypes, k, range(N_IMAGES))[:4]
        assert found.indices[k].tolist() == [i for _, i, _ in expected]


def test_patches_take_at_most_one_of_an_image(features, prototypes):
    found = search(features, prototypes, MEMBERSHIP, 4)
    assert all(len(set(row)) == 4 for row in found.indices.tolist())


def test_patches_are_marked_absent_where_images_are_few(features, prototypes):
    found = search(features, prototypes, MEMBERSHIP, 6)  # four images a class
    assert (found.indices[:, 4:] == -1).all()
    assert torch.isinf(found.distances[:, 4:]).all()
    assert (found.indices[:, :4] >= 0).all()


def test_patches_of_class_without_images_are_absent(features, prototypes):
    found = search(features, prototypes, torch.tensor([0, 0, 1, 2, 7]), 2)
    assert found.indices[4].tolist() == [-1, -1]


def test_patches_of_multi_label_image_serve_each_of_its_classes(features, prototypes):
    found = empty(prototypes, MEMBERSHIP, 1)
    pairs = torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1])
    source = StackedBlocks((features[:2],), (1.0,))
    found.add(source, pairs, torch.tensor([40, 41]), SIZE)
    assert found.result().indices.squeeze(1).tolist() == [40, 40, 41, 40, 40]


def test_distance_of_a_prototype_that_is_a_patch_is_zero(features):
    source = StackedBlocks((features,), (1.0,))
    row = source.rows(torch.tensor([3]), torch.tensor([8]))
    found = search(features, row, torch.tensor([0]), 1)
    assert found.indices.item() == 3
    assert found.distances.item() < 1e-7  # root of float64 rounding
    assert found.boxes[0, 0].tolist() == cell_boxes(torch.tensor(8), GRID, SIZE).tolist()


@pytest.mark.parametrize(
    ("cell", "box"),
    [(0, [0, 0, 4, 4]), (5, [17, 0, 21, 4]), (8, [7, 3, 11, 7]), (23, [17, 9, 21, 13])],
    ids=["first", "end_of_row", "inside", "last"],
)
def test_cell_boxes_are_exact_where_grid_does_not_divide(cell, box):
    # rows are 13/4 = 3.25 high, columns 21/6 = 3.5 wide; boxes cover every pixel they touch
    assert cell_boxes(torch.tensor(cell), GRID, SIZE).tolist() == box


def test_cell_boxes_divide_a_divisible_grid():
    boxes = cell_boxes(torch.arange(4), (2, 2), (8, 6))
    assert boxes.tolist() == [[0, 0, 3, 4], [3, 0, 6, 4], [0, 4, 3, 8], [3, 4, 6, 8]]


@pytest.mark.parametrize(("grid", "size"), [((4, 6), (13, 21)), ((7, 7), (224, 224))])
def test_cell_boxes_cover_the_input(grid, size):
    covered = torch.zeros(size, dtype=torch.bool)
    for x0, y0, x1, y1 in cell_boxes(torch.arange(grid[0] * grid[1]), grid, size).tolist():
        assert 0 <= x0 < x1 <= size[1]
        assert 0 <= y0 < y1 <= size[0]
        covered[y0:y1, x0:x1] = True
    assert covered.all()


def test_cell_box_of_one_cell_is_the_image():
    assert cell_boxes(torch.tensor(0), (1, 1), (13, 21)).tolist() == [0, 0, 21, 13]


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_patches_of_two_machines_are_those_of_one(features, prototypes, cut):
    whole = search(features, prototypes, MEMBERSHIP, 3)
    machines = [empty(prototypes, MEMBERSHIP, 3) for _ in range(2)]
    for found, part in zip(machines, torch.arange(N_IMAGES).tensor_split([cut]), strict=True):
        for indices in part.split(5):
            add(found, features, indices)
    share(*machines)
    for found in machines:
        for name in ("indices", "boxes", "distances"):
            assert torch.equal(getattr(found.result(), name), getattr(whole, name))


def test_patches_saved_and_read_go_on_as_if_they_had_not_been(features, prototypes):
    first, second = (empty(prototypes, MEMBERSHIP, 3) for _ in range(2))
    add(first, features, torch.arange(6))
    second.restore({name: tensor.clone() for name, tensor in first.state().items()})
    for found in (first, second):
        add(found, features, torch.arange(6, N_IMAGES))
    assert all(map(torch.equal, first.state().values(), second.state().values()))


def add(found: NearestPatches, features: Tensor, indices: Tensor) -> None:
    pairs = torch.arange(len(indices)), CLASSES[indices]
    found.add(StackedBlocks((features[indices],), (1.0,)), pairs, indices, SIZE)


def test_patches_seen_twice_are_named_once_and_leave_no_box(features, prototypes):
    """A sampler may repeat images; what is saved must not depend on when that was noticed."""
    found = empty(prototypes, MEMBERSHIP, 6)
    for _ in range(2):
        add(found, features, torch.arange(N_IMAGES))
    once = search(features, prototypes, MEMBERSHIP, 6)
    for name in ("indices", "boxes", "distances"):
        assert torch.equal(getattr(found.result(), name), getattr(once, name))
    absent = once.indices < 0
    assert absent.any()
    assert (once.boxes[absent] == 0).all()
