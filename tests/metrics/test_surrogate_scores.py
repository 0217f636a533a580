from __future__ import annotations

import math

import pytest
import torch
from nets import LAYERS, make_net

from captum_kmex import KMExAttribution, LayerKMeansAttribution
from captum_kmex.metrics.surrogate_scores import surrogate_scores


@pytest.fixture
def fitted(images, labels):
    return KMExAttribution(make_net(), n_prototypes=2).fit([(images, labels)])


def test_scores_equal_a_count_by_hand(fitted, images, labels):
    scores = surrogate_scores(fitted, [(images[:7], labels[:7]), (images[7:], labels[7:])])
    ours, theirs = fitted.predict(images), fitted.model(images).argmax(1)
    assert scores.n_images == 12
    assert scores.accuracy == pytest.approx((ours == labels).double().mean().item())
    assert scores.model_accuracy == pytest.approx((theirs == labels).double().mean().item())
    assert scores.fidelity == pytest.approx((ours == theirs).double().mean().item())
    wrong = theirs != labels
    expected = (ours == theirs)[wrong].double().mean().item()
    assert scores.fidelity_on_errors == pytest.approx(expected, nan_ok=True)


def test_fidelity_on_errors_is_nan_without_errors(fitted, images):
    predicted = fitted.model(images).argmax(1)
    scores = surrogate_scores(fitted, [(images, predicted)])
    assert scores.model_accuracy == 1
    assert math.isnan(scores.fidelity_on_errors)


def test_scores_follow_the_depth(images, labels):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2).fit([(images, labels)])
    scores = surrogate_scores(attr, [(images, labels)], depth=2)
    expected = (attr.predict(images, depth=2) == labels).double().mean().item()
    assert scores.accuracy == pytest.approx(expected)


@pytest.mark.parametrize(
    ("loader", "message"),
    [([], "yielded no batch"), ([torch.zeros(2, 1, 16, 16)], "yields no labels")],
    ids=["empty", "unlabelled"],
)
def test_scores_refuse_a_loader_without_labelled_images(fitted, loader, message):
    with pytest.raises(ValueError, match=message):
        surrogate_scores(fitted, loader)
