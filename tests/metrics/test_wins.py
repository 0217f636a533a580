"""Pixels won, against a loop over images and pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import LAYERS, make_net

from captum_kmex import LayerKMeansAttribution
from captum_kmex.metrics.wins import PrototypeWins, prototype_wins


@pytest.fixture
def fitted(images, labels):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2)
    return attr.fit([(images, labels)])


@pytest.mark.parametrize("depth", [0, 1, "stage3"])
def test_wins_count_the_pixels_of_segments(fitted, images, labels, depth):
    found = prototype_wins(
        fitted, [(images[:7], labels[:7]), (images[7:], labels[7:])], depth=depth
    )
    expected = np.zeros((3, 6), dtype=int)
    for segments, label in zip(fitted.segment(images, depth=depth), labels, strict=True):
        for k in segments.flatten().tolist():
            expected[label, k] += 1
    np.testing.assert_array_equal(found.counts, expected)


def test_images_of_several_classes_count_for_each(fitted, images):
    hot = torch.tensor([[1, 0, 1]]).repeat(len(images), 1)
    found = prototype_wins(fitted, [(images, hot)]).counts
    assert torch.equal(found[0], found[2])
    assert not found[1].any()


def test_class_shares_are_those_of_the_vote(fitted, images, labels):
    fitted.vote = "share"
    shares = prototype_wins(fitted, [(images, labels)]).class_shares()
    scores = fitted.classify(images).scores
    for c in range(3):
        torch.testing.assert_close(shares[c].float(), scores[labels == c].mean(0))


def test_shares_of_class_agnostic_prototypes_are_split():
    membership = torch.tensor([[0.75, 0.25], [0.0, 1.0]])
    wins = PrototypeWins(torch.tensor([[8, 2], [0, 5]]), membership)
    torch.testing.assert_close(wins.class_shares(), torch.tensor([[0.6, 0.4], [0.0, 1.0]]).double())
    torch.testing.assert_close(wins.foreign_shares(), torch.tensor([0, 2 / 7]).double())


def test_a_prototype_without_pixels_has_no_share_and_rivals_are_other_classes():
    wins = PrototypeWins(torch.tensor([[9, 0, 3], [1, 0, 9], [4, 0, 0]]), torch.tensor([0, 1, 1]))
    assert wins.foreign_shares().isnan().tolist() == [False, True, False]
    assert wins.rivals()[[0, 2]].tolist() == [2, 0]


def test_wins_need_labels_and_images(fitted, images):
    with pytest.raises(ValueError, match="yields no labels"):
        prototype_wins(fitted, [images])
    with pytest.raises(ValueError, match="no batch"):
        prototype_wins(fitted, [])
