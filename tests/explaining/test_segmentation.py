"""Assignment of pixels to prototypes, restricted, connected, or to the image's clusters."""

from __future__ import annotations

import pytest
import torch

from captum_kmex.bank.prototype_bank import Codebook
from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.explaining.segmentation import (
    segment_by_class,
    segment_by_image,
    segment_by_prototypes,
)

MEMBERSHIP = torch.tensor([0, 0, 1, 2, 2, 2])


@pytest.fixture
def stack() -> StackedBlocks:
    generator = torch.Generator().manual_seed(0)
    blocks = (
        torch.randn(3, 4, 6, 8, generator=generator),
        torch.randn(3, 5, 3, 4, generator=generator),
    )
    return StackedBlocks(blocks, (1.0, 1.0))


@pytest.fixture
def book() -> Codebook:
    centroids = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    return Codebook(centroids, MEMBERSHIP, torch.ones(6, dtype=torch.int64), torch.ones(6))


TARGET = torch.tensor([0, 2, 1])


def test_segment_by_prototypes_labels_nearest_prototype(stack, book):
    found = segment_by_prototypes(stack, book)
    index, distances = stack.nearest(book.centroids)
    assert torch.equal(found.labels, index)
    assert torch.equal(found.distances, distances)
    assert found.count == 6
    assert found.prototypes.tolist() == [list(range(6))] * 3


def test_segment_by_class_uses_only_own_class(stack, book):
    found = segment_by_class(stack, book, TARGET)
    assert torch.equal(MEMBERSHIP[found.labels], TARGET[:, None, None].expand(-1, 6, 8))


def test_segment_by_class_takes_nearest_of_class(stack, book):
    found = segment_by_class(stack, book, TARGET)
    scores = stack.scores(book.centroids)
    outside = (TARGET[:, None] != MEMBERSHIP)[:, :, None, None]
    assert torch.equal(found.labels, scores.masked_fill(outside, -torch.inf).argmax(1))


def test_segment_by_class_raises_for_a_class_agnostic_book(stack, book):
    agnostic = Codebook(book.centroids, torch.ones(6, 3) / 3, book.counts, book.spread)
    with pytest.raises(ValueError, match="needs a class-wise fit"):
        segment_by_class(stack, agnostic, TARGET)


def test_segment_connected_names_prototype_of_each_component(stack, book):
    found = segment_by_prototypes(stack, book, connected=True)
    owner = found.prototypes.gather(1, found.labels.flatten(1)).view_as(found.labels)
    assert torch.equal(owner, found.nearest)


def test_segment_connected_pads_images_with_fewer_components(stack, book):
    found = segment_by_prototypes(stack, book, connected=True)
    for i in range(3):
        own = int(found.labels[i].max()) + 1
        assert (found.prototypes[i, own:] == -1).all()
        assert (found.prototypes[i, :own] >= 0).all()


def test_segment_by_image_uses_no_more_clusters_than_asked(stack):
    found = segment_by_image(stack, 4, 0)
    assert found.count == 4
    assert set(found.labels.unique().tolist()) <= set(range(4))


def test_segment_by_image_uses_no_more_clusters_than_pixels(stack):
    small = StackedBlocks((stack.blocks[0][:, :, :1, :3],), (1.0,))
    assert segment_by_image(small, 5, seed=0).count == 3
