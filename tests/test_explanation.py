"""The ledger adds up, the manifest is JSON, the arrays are the tensors."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
from conftest import LAYERS, make_net
from matplotlib.figure import Figure

from captum_kmex import Explanation, LayerKMeansAttribution
from captum_kmex.bank.prototype_bank import Codebook
from captum_kmex.bank.representatives import Representatives
from captum_kmex.explaining.ledger import LedgerRow, Patch, build_ledger
from captum_kmex.explaining.result import ExplanationData
from captum_kmex.visualization import plot_explanation

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")

MAPS = torch.tensor([[[[1.0, -5.0], [1.0, 0.5]]], [[[0.0, 2.0], [0.0, 2.0]]]])
SEGMENTS = torch.tensor([[[0, 2], [0, 1]], [[1, 1], [1, 1]]])
EVERYONE = torch.tensor([[0, 1, 2]] * 2)


@pytest.fixture
def book() -> Codebook:
    found = Representatives(
        torch.tensor([[4, 7], [2, -1], [-1, -1]]),
        torch.arange(24).view(3, 2, 4),
        torch.tensor([[0.5, 1.0], [0.25, torch.inf], [torch.inf, torch.inf]]),
    )
    membership = torch.tensor([1, 0, 1])
    return Codebook(torch.zeros(3, 2), membership, torch.ones(3), torch.ones(3), found)


@pytest.fixture(params=["fitted", "unfitted"])
def attr(request, images, labels) -> LayerKMeansAttribution:
    made = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2)
    if request.param == "fitted":
        made.fit([(images, labels)], n_init=1, n_representatives=2)
    return made


def test_ledger_lists_segments_by_absolute_evidence():
    ledger = build_ledger(MAPS, SEGMENTS, EVERYONE, None)
    assert ledger[0] == (
        LedgerRow(2, 2, None, 0.25, -5.0),
        LedgerRow(0, 0, None, 0.5, 2.0),
        LedgerRow(1, 1, None, 0.25, 0.5),
    )
    assert ledger[1] == (LedgerRow(1, 1, None, 1.0, 4.0),)


def test_ledger_names_class_and_patches_of_prototypes(book):
    rows = {row.segment: row for row in build_ledger(MAPS, SEGMENTS, EVERYONE, book)[0]}
    assert [rows[s].class_index for s in range(3)] == [1, 0, 1]
    patches = (Patch(4, (0, 1, 2, 3), 0.5), Patch(7, (4, 5, 6, 7), 1.0))
    assert rows[0].representatives == patches
    assert rows[1].representatives == (Patch(2, (8, 9, 10, 11), 0.25),)
    assert rows[2].representatives == ()


def test_ledger_names_most_frequent_class_of_agnostic_prototypes(book):
    agnostic = dataclasses.replace(book, membership=torch.tensor([[0.2, 0.8], [0.9, 0.1], [0, 1]]))
    rows = {row.segment: row for row in build_ledger(MAPS, SEGMENTS, EVERYONE, agnostic)[0]}
    assert [rows[s].class_index for s in range(3)] == [1, 0, 1]


def test_ledger_names_prototype_of_each_component(book):
    prototypes = torch.tensor([[2, 0, 1], [0, 1, -1]])
    rows = {row.segment: row for row in build_ledger(MAPS, SEGMENTS, prototypes, book)[0]}
    assert [rows[s].prototype for s in range(3)] == [2, 0, 1]


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("connected", [False, True], ids=["whole", "connected"])
def test_ledger_sums_to_logit_minus_bias(attr, images, depth, connected):
    found = attr.explain(images, target=1, depth=depth, connected=connected)
    for i, rows in enumerate(found.ledger):
        expected = float(found.output[i] - found.bias[i])
        assert sum(row.evidence for row in rows) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("connected", [False, True], ids=["whole", "connected"])
def test_ledger_areas_cover_the_grid(attr, images, connected):
    for rows in attr.explain(images, connected=connected).ledger:
        assert sum(row.area for row in rows) == pytest.approx(1, abs=1e-6)
        assert all(row.area > 0 for row in rows)


def test_ledger_evidence_is_sum_of_map_over_segment(attr, images):
    found = attr.explain(images, target=0)
    for i, rows in enumerate(found.ledger):
        for row in rows:
            inside = found.segments[i] == row.segment
            expected = float(found.attribution[i, 0][inside].double().sum())
            assert row.evidence == pytest.approx(expected, abs=1e-7)


def test_contrast_ledger_sums_to_difference_of_logits(attr, images):
    found = attr.explain(images, target=1, contrast=0)
    with torch.no_grad():
        logits = attr.model(images)
    assert torch.allclose(found.output, logits[:, 1] - logits[:, 0], atol=1e-6)
    for i, rows in enumerate(found.ledger):
        total = sum(row.evidence for row in rows) + float(found.bias[i])
        assert total == pytest.approx(float(found.output[i]), abs=1e-5)


def test_explanation_agrees_with_attribute_and_segment(attr, images):
    found = attr.explain(images, target=2, depth=1)
    assert torch.equal(found.attribution, attr.attribute(images, target=2, depth=1))
    assert torch.equal(found.segments, attr.segment(images, target=2, depth=1))
    assert found.layers == ("stage2", "stage3")
    assert len(found) == 12


def test_delta_is_zero_for_complete_map(attr, images):
    found = attr.explain(images)
    assert found.delta.abs().max() < 1e-5


def test_delta_shows_what_a_map_misses(attr, images):
    found = attr.explain(images)
    worse = dataclasses.replace(found, attribution=found.attribution + 1 / 256)
    assert torch.allclose(worse.delta, torch.ones(12), atol=1e-4)


def test_explanation_has_votes_only_when_fitted(attr, images):
    found = attr.explain(images)
    assert (found.class_scores is None) is not attr.is_fitted
    assert (found.prediction is None) is not attr.is_fitted
    if attr.is_fitted:
        assert torch.equal(found.prediction, attr.predict(images))


def test_explanation_is_frozen(attr, images):
    found = attr.explain(images)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'target'"):
        found.target = 1


def test_manifest_is_json_and_holds_the_ledger(attr, images):
    found = attr.explain(images, target=1, contrast=0, depth=1)
    manifest = json.loads(json.dumps(found.manifest(), allow_nan=False))
    assert manifest["schema_version"] == 1
    assert manifest["layers"] == ["stage2", "stage3"]
    assert (manifest["units"], manifest["restricted"]) == ("logit", False)
    assert len(manifest["images"]) == 12
    for image, rows in zip(manifest["images"], found.ledger, strict=True):
        assert (image["target"], image["contrast"]) == (1, 0)
        total = sum(row["evidence"] for row in image["ledger"])
        assert total + image["bias"] == pytest.approx(image["output"], abs=1e-5)
        assert [row["prototype"] for row in image["ledger"]] == [row.prototype for row in rows]


def test_manifest_without_contrast_says_null(attr, images):
    assert attr.explain(images[:1]).manifest()["images"][0]["contrast"] is None


def test_arrays_are_the_tensors_that_exist(attr, images):
    found = attr.explain(images)
    arrays = found.arrays()
    names = {"target", "logits", "attribution", "segments", "bias", "output"}
    assert set(arrays) == names | ({"class_scores", "prediction"} if attr.is_fitted else set())
    for name, array in arrays.items():
        assert np.array_equal(array, getattr(found, name).numpy())


def test_arrays_hold_contrast_when_there_is_one(attr, images):
    assert attr.explain(images, target=0, contrast=1).arrays()["contrast"].tolist() == [1] * 12


def test_explanation_is_its_data_under_its_own_name(attr, images):
    found = attr.explain(images[:2])
    assert type(found) is Explanation
    assert repr(found).startswith("Explanation(inputs=tensor(")
    assert Explanation.__module__ == "captum_kmex.explanation"
    again = pickle.loads(pickle.dumps(found))
    assert type(again) is Explanation
    assert torch.equal(again.attribution, found.attribution)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'other'"):
        found.other = 1


def test_data_alone_can_be_drawn(attr, images):
    found = attr.explain(images[:1])
    fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    figure = Figure()
    plot_explanation(ExplanationData(**fields), figure=figure)
    assert len(figure.axes) > 3
