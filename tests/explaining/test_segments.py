"""Segment means, votes and components against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from captum_kmex.explaining.segments import (
    class_scores,
    connected_segments,
    predicted_class,
    segment_means,
    segment_sums,
    to_classes,
)

GENERATOR_SEED = 4
AGNOSTIC = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.25, 0.75], [0.2, 0.2, 0.6]])
CLASSWISE = torch.tensor([0, 0, 2, 1])


@pytest.fixture
def maps() -> Tensor:
    generator = torch.Generator().manual_seed(GENERATOR_SEED)
    return torch.randn(3, 1, 6, 5, generator=generator, dtype=torch.float64)


@pytest.fixture
def segments() -> Tensor:
    return torch.randint(4, (3, 6, 5), generator=torch.Generator().manual_seed(GENERATOR_SEED))


def test_segment_sums_equal_numpy_loop(maps, segments):
    sums = segment_sums(maps, segments, 4)
    for i in range(3):
        for s in range(4):
            expected = maps[i, 0].numpy()[segments[i].numpy() == s].sum()
            assert sums[i, s].item() == pytest.approx(expected, abs=1e-12)


def test_segment_means_equal_numpy_loop(maps, segments):
    found = segment_means(maps, segments, 4)
    expected = maps.numpy().copy()
    for i in range(3):
        for s in range(4):
            inside = segments[i].numpy() == s
            expected[i, 0][inside] = maps[i, 0].numpy()[inside].mean()
    assert np.allclose(found.numpy(), expected, atol=1e-13)


def test_segment_means_keep_total(maps, segments):
    found = segment_means(maps, segments, 4)
    assert torch.allclose(found.sum((1, 2, 3)), maps.sum((1, 2, 3)), atol=1e-12)


def test_segment_means_keep_sum_of_each_segment(maps, segments):
    found = segment_means(maps, segments, 4)
    before, after = segment_sums(maps, segments, 4), segment_sums(found, segments, 4)
    assert torch.allclose(after, before, atol=1e-12)


def test_segment_means_are_idempotent(maps, segments):
    once = segment_means(maps, segments, 4)
    assert torch.allclose(segment_means(once, segments, 4), once, atol=1e-14)


def test_segment_means_ignore_unused_ids(maps, segments):
    found = segment_means(maps, segments, 50)
    assert torch.allclose(found, segment_means(maps, segments, 4), atol=1e-14)


def test_to_classes_adds_prototypes_of_a_class():
    values = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    assert to_classes(values, CLASSWISE, 4).tolist() == [[3.0, 8.0, 4.0, 0.0]]


def test_to_classes_spreads_by_distribution():
    values = torch.tensor([[1.0, 2.0, 4.0, 10.0]])
    found = to_classes(values, AGNOSTIC, 3)
    assert torch.allclose(found, torch.tensor([[4.0, 4.0, 9.0]]), atol=1e-6)


@pytest.mark.parametrize("membership", [CLASSWISE, AGNOSTIC], ids=["classwise", "agnostic"])
def test_class_scores_equal_loop(segments, membership):
    scores = class_scores(segments, membership, 3)
    expected = np.zeros((3, 3))
    for i, image in enumerate(segments.tolist()):
        for k in np.ravel(image):
            share = np.eye(3)[membership[k]] if membership.ndim == 1 else membership[k].numpy()
            expected[i] += share / 30
    assert np.allclose(scores.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("membership", [CLASSWISE, AGNOSTIC], ids=["classwise", "agnostic"])
def test_class_scores_sum_to_one(segments, membership):
    assert torch.allclose(class_scores(segments, membership, 3).sum(1), torch.ones(3), atol=1e-6)


@pytest.mark.parametrize("membership", [CLASSWISE, AGNOSTIC], ids=["classwise", "agnostic"])
def test_predicted_class_is_argmax_of_scores_without_ties(membership):
    segments = torch.tensor([[[2, 2, 2, 0]], [[0, 0, 1, 3]]])
    found = predicted_class(segments, torch.rand(2, 1, 4), membership, 3)
    assert torch.equal(found, class_scores(segments, membership, 3).argmax(1))


@pytest.mark.parametrize(
    ("distances", "winner"),
    [([0.5, 0.5, 0.1, 0.2], 1), ([0.1, 0.2, 0.4, 0.5], 0), ([0.3, 0.3, 0.3, 0.3], 0)],
    ids=["second_nearer", "first_nearer", "equal_takes_lowest"],
)
@pytest.mark.parametrize("kind", ["int", "float"])
def test_predicted_class_breaks_tie_by_smaller_mean_distance(distances, winner, kind):
    membership = torch.tensor([0, 1]) if kind == "int" else torch.eye(2)
    segments = torch.tensor([[[0, 0, 1, 1]]])
    found = predicted_class(segments, torch.tensor([[distances]]), membership, 2)
    assert found.tolist() == [winner]


def test_predicted_class_leaves_nearer_loser_behind():
    segments = torch.tensor([[[0, 0, 1]]])
    distances = torch.tensor([[[9.0, 9.0, 0.0]]])
    assert predicted_class(segments, distances, torch.tensor([0, 1]), 2).tolist() == [0]


def test_predicted_class_tells_one_pixel_of_many():
    segments = torch.zeros(1, 225, 225, dtype=torch.int64)
    segments[:, :112] = 1
    segments[0, 112, :113] = 1  # 25313 of 50625, class 0 has 25312
    distances = torch.where(segments == 1, 5.0, 0.0)
    assert predicted_class(segments, distances, torch.tensor([0, 1]), 2).tolist() == [1]


def test_predicted_class_finds_tie_among_prototypes_of_uneven_sizes():
    # shares 3/9 = 2/9 + 1/9 differ by rounding only
    segments = torch.tensor([[[0, 0, 0, 1, 1, 2, 3, 3, 3]]])
    distances = torch.tensor([[[9.0] * 3 + [1.0] * 3 + [5.0] * 3]])
    found = predicted_class(segments, distances, torch.tensor([0, 1, 1, 2]), 3)
    assert found.tolist() == [1]


def components_by_scipy(labels: np.ndarray) -> np.ndarray:
    """Number the 4-connected components of every id apart."""
    found, total = np.zeros_like(labels), 0
    for s in np.unique(labels):
        parts, count = ndimage.label(labels == s)
        found[labels == s] = parts[labels == s] + total
        total += count
    return found


@pytest.mark.parametrize("shape", [(9, 7), (1, 12), (12, 1), (1, 1)])
def test_connected_segments_equal_scipy_label(shape):
    generator = torch.Generator().manual_seed(GENERATOR_SEED)
    segments = torch.randint(3, (4, *shape), generator=generator)
    labels, owners = connected_segments(segments)
    for i in range(4):
        expected = components_by_scipy(segments[i].numpy())
        pairs = set(zip(expected.ravel().tolist(), labels[i].flatten().tolist(), strict=True))
        assert len(pairs) == len(np.unique(expected)) == len(owners[i])  # a bijection


def test_connected_segments_number_from_zero_and_name_owners():
    segments = torch.tensor([[[5, 5, 2], [2, 5, 2]], [[3, 3, 3], [3, 3, 3]]])
    labels, owners = connected_segments(segments)
    for image, found, owner in zip(segments, labels, owners, strict=True):
        assert sorted(found.unique().tolist()) == list(range(len(owner)))
        assert torch.equal(owner[found], image)


def test_connected_segments_do_not_join_diagonals():
    labels, owners = connected_segments(torch.tensor([[[0, 1], [1, 0]]]))
    assert len(owners[0]) == 4
    assert len(labels.unique()) == 4
