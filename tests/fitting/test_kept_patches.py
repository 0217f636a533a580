"""Patches among the rows of a sample, against a loop over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from captum_kmex.fitting import kept_patches
from captum_kmex.fitting.kept_patches import KeptPatches, check_kept_patches, nearest_rows
from captum_kmex.fitting.places import check_places, places_of
from captum_kmex.fitting.sampled_rows import SampledRows

ROWS, WIDTH, IMAGES = 60, 5, 9


def sample(rows: Tensor, images: Tensor) -> SampledRows:
    count = torch.arange(len(rows))
    boxes = (count[:, None] * 7 + torch.tensor([0, 1, 2, 3])) + 1
    return SampledRows(rows, count, count, 0 * count, torch.cat([images[:, None], boxes], 1))


@pytest.fixture(params=[0.0, 30.0], ids=["near_the_origin", "far_out"])
def kept(request) -> SampledRows:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(ROWS, WIDTH, generator=generator) + request.param
    return sample(rows, torch.randint(3, 3 + IMAGES, (ROWS,), generator=generator))


def centroids_like(kept: SampledRows, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return kept.rows.mean(0) + torch.randn(count, WIDTH, generator=generator)


def by_loop(kept: SampledRows, centroid: Tensor, count: int) -> list[tuple[float, int, list[int]]]:
    """Return distance, image and box of the nearest row of each image, in order."""
    nearest: dict[int, tuple[float, int, list[int]]] = {}
    for row, place in zip(kept.rows.double().numpy(), kept.places.tolist(), strict=True):
        distance = float(np.linalg.norm(row - centroid.double().numpy()))
        found = (distance, place[0], place[1:])
        nearest[place[0]] = min(nearest.get(place[0], found), found)
    return sorted(nearest.values())[:count]


@pytest.mark.parametrize("at_once", [1, 2**22], ids=["one_by_one", "together"])
@pytest.mark.parametrize("count", [1, 4])
def test_patches_equal_a_loop_over_the_rows(kept, monkeypatch, at_once, count):
    monkeypatch.setattr(kept_patches, "_DISTANCES", at_once)
    centroids = centroids_like(kept, 3)
    found = nearest_rows(kept, centroids, 6).nearest(centroids, count)
    assert found.indices.shape == found.distances.shape == (3, count)
    assert found.boxes.shape == (3, count, 4)
    for k, centroid in enumerate(centroids):
        expected = by_loop(kept, centroid, count)
        assert found.indices[k].tolist() == [image for _, image, _ in expected]
        assert found.boxes[k].tolist() == [box for _, _, box in expected]
        far = [distance for distance, _, _ in expected]
        assert found.distances[k].tolist() == pytest.approx(far, rel=1e-5)


def test_patches_are_marked_absent_where_images_are_few(kept):
    centroids = centroids_like(kept, 2)
    found = nearest_rows(kept, centroids, IMAGES + 4).nearest(centroids, IMAGES + 2)
    n_images = len(kept.places[:, 0].unique())
    assert (found.indices[:, n_images:] == -1).all()
    assert found.distances[:, n_images:].isinf().all()
    assert (found.boxes[:, n_images:] == 0).all()
    assert all(len(set(row[:n_images])) == n_images for row in found.indices.tolist())


def test_patches_of_moved_prototypes_are_found_among_those_near_them(kept):
    before = centroids_like(kept, 3)
    after = before + 0.05
    found = nearest_rows(kept, before, 8).nearest(after, 2)
    for k, centroid in enumerate(after):
        expected = by_loop(kept, centroid, 2)
        assert found.indices[k].tolist() == [image for _, image, _ in expected]


def test_rows_of_several_classes_stand_one_after_the_other(kept):
    centroids = centroids_like(kept, 3)
    whole = nearest_rows(kept, centroids, 4)
    parts = [nearest_rows(kept, part, 4) for part in (centroids[:1], centroids[1:])]
    for name, tensor in KeptPatches.joined(parts).state().items():
        assert torch.allclose(tensor, getattr(whole, name))


def test_rows_without_places_are_refused(kept):
    rows = SampledRows(kept.rows, kept.keys, kept.tags, kept.masses)
    with pytest.raises(ValueError, match="without their places"):
        nearest_rows(rows, centroids_like(kept, 1), 1)


@pytest.mark.parametrize(
    ("grid", "size", "box"),
    [
        ((4,), (16,), [8, 12]),
        ((2, 3), (8, 6), [4, 0, 6, 4]),
        ((1, 1, 4), (5, 6, 8), [4, 0, 0, 6, 6, 5]),
    ],
    ids=["signal", "picture", "volume"],
)
def test_place_is_the_image_and_the_box_on_a_grid_of_any_dimension(grid, size, box):
    found = places_of(torch.tensor([9]), torch.tensor([2]), grid, size)
    assert found.tolist() == [[9, *box]]


@pytest.mark.parametrize(
    "place", [[3], [3, 1], [3, 1, 2, 3], [3, 5, 0, 4, 9]], ids=["no_box", "half", "odd", "reversed"]
)
def test_places_that_are_none_are_refused(place):
    with pytest.raises(ValueError, match=r"0\.places\.1 holds what is no index with a box"):
        check_places(torch.tensor([place]), "0.places.1")
    saved = {"places": torch.tensor([[place]])}
    with pytest.raises(ValueError, match=r"0\.near\.places holds what is no index with a box"):
        check_kept_patches(saved, "0.near.")


def test_saved_boxes_outside_of_images_are_refused():
    saved = {"places": torch.tensor([[[-1, -4, 0, 4, 9]]])}
    with pytest.raises(ValueError, match="boxes outside of the images"):
        check_kept_patches(saved, "0.near.")
