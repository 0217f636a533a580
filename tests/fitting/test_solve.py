"""From samples to codebooks: warnings that point at the call, classes few at a time."""

from __future__ import annotations

import warnings

import pytest
import torch
from nets import LAYERS, make_net

from captum_kmex import KMExAttribution, LayerKMeansAttribution
from captum_kmex.exceptions import FewRowsWarning, RepresentativesWarning
from captum_kmex.fitting import solve


def all_of_class_0():
    net = make_net()
    with torch.no_grad():
        net.head.bias[0] += 100
    return KMExAttribution(net, n_prototypes=1)


def check_blame(attribution, loader, category, message, **options) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attribution.fit(loader, **options)
    (found,) = [w for w in caught if message in str(w.message)]
    assert found.category is category
    assert found.filename == __file__


def test_warning_of_few_rows_points_at_the_call(net, images, labels):
    attribution = KMExAttribution(net, n_prototypes=2)
    check_blame(attribution, [(images, labels)], FewRowsWarning, "kept fewer than 10")


def test_warning_of_classes_never_predicted_points_at_the_call(images):
    options = {"labels": "predicted"}
    message = "predicts 2 of 3 classes for no image"
    check_blame(all_of_class_0(), [images], FewRowsWarning, message, **options)


def test_warning_of_a_loader_read_once_points_at_the_call(net, images, labels):
    loader = iter([(images, labels)])
    message = "can be read only once"
    attribution, options = KMExAttribution(net, n_prototypes=1), {"patch_search": "exact"}
    check_blame(attribution, loader, RepresentativesWarning, message, **options)


@pytest.mark.parametrize("kind", ["kmex", "layers"])
@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")
def test_classes_solved_one_at_a_time_give_the_same_codebooks(
    net, images, labels, monkeypatch, kind
):
    def fit():
        make = {"kmex": KMExAttribution, "layers": LayerKMeansAttribution}[kind]
        layer = "stage3" if kind == "kmex" else LAYERS
        return make(net, layer, n_prototypes={0: 2, 1: 3, 2: 1}).fit([(images, labels)]).bank_

    together = fit()
    monkeypatch.setattr(solve, "_ROWS_AT_ONCE", 1)
    for ours, theirs in zip(fit().codebooks, together.codebooks, strict=True):
        assert torch.equal(ours.membership, theirs.membership)
        assert torch.equal(ours.counts, theirs.counts)
        assert torch.allclose(ours.centroids, theirs.centroids, atol=1e-5)
