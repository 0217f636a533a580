"""The ledger adds up, the manifest is JSON, the arrays are the tensors."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from nets import LAYERS, make_net

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
    assert repr(found).startswith("Explanation: 2 images, stage1 + stage2 + stage3, ")
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


def test_one_image_of_a_batch_is_explained_as_in_it(attr, images):
    found = attr.explain(images, target=1, contrast=0, evidence="measured")
    one = found[2]
    assert isinstance(one, Explanation)
    assert len(one) == 1
    for name, value in vars(found).items():
        own = getattr(one, name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(own, value[2:3])
        elif isinstance(value, tuple) and len(value) == 12:
            assert own == value[2:3]
        else:
            assert own == value
    assert one.manifest()["images"][0]["ledger"] == found.manifest()["images"][2]["ledger"]


def test_explanation_is_gone_through_image_by_image(attr, images):
    found = attr.explain(images[:3])
    assert [one.ledger[0] for one in found] == list(found.ledger)
    assert found[-1].ledger == found.ledger[2:]
    assert found[1:].ledger == found.ledger[1:]
    with pytest.raises(IndexError, match="out of range"):
        found[3]
    with pytest.raises(TypeError, match="integer"):
        found["first"]


def test_prototypes_are_numbered_from_one_within_their_class(book):
    assert book.numbers.tolist() == [1, 1, 2]
    agnostic = dataclasses.replace(book, membership=torch.tensor([[0.2, 0.8], [0.9, 0.1], [0, 1]]))
    assert agnostic.numbers.tolist() == [1, 2, 3]
    rows = {row.segment: row for row in build_ledger(MAPS, SEGMENTS, EVERYONE, book)[0]}
    assert [rows[s].prototype_number for s in range(3)] == [1, 1, 2]


def test_ledger_table_has_the_numbers_of_the_pictures(attr, images):
    found = attr.explain(images[:2]).named(["a", "b", "c"])
    table = found.ledger_table(1)
    for place, (line, row) in enumerate(zip(table, found.ledger[1], strict=True)):
        assert line["number"] == place + 1
        assert line["evidence"] == row.evidence
        assert line["segment"] == row.segment
        if attr.is_fitted:
            own = attr.bank_.codebooks[0].of_class(row.class_index).tolist()
            number = own.index(row.prototype) + 1
            assert line["prototype"] == f"{'abc'[row.class_index]} #{number}"
        else:
            assert line["prototype"] is None
    manifest = found.manifest()["images"][1]
    assert [row["number"] for row in manifest["ledger"]] == [line["number"] for line in table]


def test_ledger_table_of_measured_evidence_says_what_is_enough(attr, images):
    found = attr.explain(images[:1], evidence="measured")
    table = found.ledger_table()
    for words, segments in (("enough", found.sufficient()), ("needed", found.necessary())):
        told = {line["segment"] for line in table if line[words]}
        assert told == set(segments or ())
    for line, row in zip(table, found.ledger[0], strict=True):
        assert [found.ledger[0][number - 1].segment for number in line["ties"]] == list(row.ties)


def test_ledger_table_becomes_a_data_frame(attr, images):
    frame = pytest.importorskip("pandas").DataFrame(attr.explain(images[:1]).ledger_table())
    assert frame.evidence.abs().is_monotonic_decreasing


def test_explanation_is_told_in_a_few_lines(attr, images):
    found = attr.explain(images, target=1)
    told = repr(found).splitlines()
    assert told[0].startswith("Explanation: 12 images, stage1 + stage2 + stage3, allocated")
    assert len(told) == 7
    assert told[1].startswith("  0: class 1 (p = ")
    assert told[-1] == "  and 7 more"
    assert "  0: bee (p = " in repr(found.named(["ape", "bee", "cat"]))
    assert "1 image," in repr(found[0])


def test_notebook_shows_figures_and_tables_and_leaves_pyplot_alone(attr, images):
    from matplotlib import pyplot as plt

    before = plt.get_fignums()
    found = attr.explain(images).named(["<b>", "x", "y"])
    page = found._repr_html_()
    assert page.count("<img ") == 3
    assert page.count("<details>") == 3
    assert "<b> " not in page.replace("<b>Explanation</b>", "")
    assert "result[3]" in page
    assert found._repr_png_().startswith(b"\x89PNG")
    assert plt.get_fignums() == before


@pytest.mark.parametrize("kind", ["map", "segments"])
def test_overlay_is_a_picture_of_the_images_size(attr, images, kind):
    found = attr.explain(images[:2])
    picture = np.full((40, 60, 3), 255, np.uint8)
    drawn = found.overlay(1, kind, image=picture)
    assert drawn.size == (60, 40)
    assert drawn.mode == "RGB"
    assert found.overlay(0, kind).size == (16, 16)


def test_overlay_has_full_colour_where_evidence_is_largest(attr, images):
    found = attr.explain(images[:1])
    white = np.full((64, 64, 3), 255, np.uint8)
    pixels = np.asarray(found.overlay(image=white)).astype(int)
    values = found.attribution[0, 0].abs()
    y, x = divmod(int(values.argmax()), values.shape[1])
    step = 64 // values.shape[1]
    red, _, blue = pixels[y * step + step // 2, x * step + step // 2]
    sign = float(found.attribution[0, 0, y, x])
    assert (red - blue) * sign > 0
    assert abs(red - blue) > 100
    smooth = np.asarray(found.overlay(image=white, smooth=True)).astype(int)
    assert (smooth != pixels).any()


def test_names_must_be_as_many_as_classes(attr, images):
    with pytest.raises(ValueError, match="2 names for 3 classes"):
        attr.explain(images).named(["a", "b"])


def test_signals_show_themselves_and_have_no_overlay():
    net = torch.nn.Sequential(
        torch.nn.Conv1d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool1d(1),
        torch.nn.Flatten(), torch.nn.Linear(4, 2),
    ).eval()  # fmt: skip
    x = torch.rand(1, 1, 16, generator=torch.Generator().manual_seed(0))
    found = LayerKMeansAttribution(net, "1", n_clusters=3).explain(x)
    assert found._repr_png_().startswith(b"\x89PNG")
    assert "<details>" in found._repr_html_()
    assert len(found[0].ledger_table()) == 3
    with pytest.raises(ValueError, match="a picture of an image"):
        found.overlay()
