"""The bank's file: a round trip changes nothing, and a bad file is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import stat

import pytest
import torch
from conftest import LAYERS, make_net
from safetensors.torch import load_file, save_file

from captum_kmex import KMExAttribution, LayerKMeansAttribution, PrototypeBank
from captum_kmex.bank.prototype_bank import ModelFingerprint
from captum_kmex.exceptions import UncheckedFileWarning
from captum_kmex.files.tensor_file import write_tensors

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")


@pytest.fixture
def fitted(images, labels) -> LayerKMeansAttribution:
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2)
    return attr.fit([(images, labels)], n_init=2, n_representatives=2)


@pytest.fixture
def path(fitted, tmp_path):
    fitted.save(tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def read_parts(path) -> tuple[dict, dict]:
    """Return the tensors and the header of a file."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["captum_kmex"])
    header.pop("sha256")
    return {name: tensor.clone() for name, tensor in load_file(path).items()}, header


def rewrite(path, edit) -> None:
    """Let ``edit(tensors, header)`` change a file in place, with a checksum of what it becomes."""
    tensors, header = read_parts(path)
    edit(tensors, header)
    write_tensors(path, tensors, "captum_kmex", header)


def assert_equal(a, b) -> None:
    if dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            assert_equal(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_equal(left, right)
    else:
        assert json.loads(json.dumps(a)) == json.loads(json.dumps(b))


def test_round_trip_keeps_every_field(fitted, path):
    assert_equal(PrototypeBank.load(path), fitted.bank_)


def test_round_trip_keeps_class_agnostic_bank(images, tmp_path):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=3)
    attr.fit([images], labels=None, n_representatives=0).save(tmp_path / "b")
    assert_equal(PrototypeBank.load(tmp_path / "b"), attr.bank_)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_round_trip_keeps_maps_bit_for_bit(fitted, path, images, depth):
    loaded = LayerKMeansAttribution.load(path, make_net())
    expected = fitted.attribute(images, target=1, depth=depth)
    assert torch.equal(loaded.attribute(images, target=1, depth=depth), expected)


def test_round_trip_keeps_predictions(fitted, path, images):
    loaded = LayerKMeansAttribution.load(path, make_net())
    assert torch.equal(loaded.predict(images), fitted.predict(images))


def test_round_trip_keeps_ledger(fitted, path, images):
    loaded = LayerKMeansAttribution.load(path, make_net())
    assert loaded.explain(images).ledger == fitted.explain(images).ledger


def test_round_trip_keeps_weights_of_blocks(images, labels, tmp_path):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2, weighting="nave")
    attr.fit([(images, labels)], n_init=1).save(tmp_path / "b")
    loaded = LayerKMeansAttribution.load(tmp_path / "b", make_net())
    assert torch.equal(loaded.attribute(images), attr.attribute(images))


def test_bank_of_a_release_with_other_nave_weights_keeps_them(images, labels, tmp_path):
    """Releases before 0.2 weighed the deepest block most."""
    old = (5 / 9, 7 / 9, 1.0)
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2, weighting=old)
    bank = attr.fit([(images, labels)], n_init=1).bank_
    settings = dict(bank.settings) | {"weighting": "nave"}
    dataclasses.replace(bank, settings=settings).save(tmp_path / "b")
    loaded = LayerKMeansAttribution.load(tmp_path / "b", make_net())
    assert (loaded.weighting, loaded.bank_.weights) == ("nave", old)
    assert torch.equal(loaded.segment(images), attr.segment(images))
    assert loaded.fit([(images, labels)], n_init=1).bank_.weights == (1.0, 5 / 7, 5 / 9)


def test_round_trip_keeps_averaging_of_the_top(images, labels, tmp_path):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2, average_top=True)
    attr.fit([(images, labels)], n_init=1).save(tmp_path / "b")
    loaded = LayerKMeansAttribution.load(tmp_path / "b", make_net())
    assert torch.equal(loaded.attribute(images, depth=-1), attr.attribute(images, depth=-1))


def test_round_trip_keeps_kmex(images, labels, tmp_path):
    attr = KMExAttribution(make_net(), n_prototypes=2).fit([(images, labels)])
    attr.save(tmp_path / "b")
    loaded = KMExAttribution.load(tmp_path / "b", make_net())
    assert torch.equal(loaded.attribute(images, target=0), attr.attribute(images, target=0))
    assert torch.equal(loaded.classify(images).scores, attr.classify(images).scores)


def test_round_trip_keeps_kmex_layer(images, labels, tmp_path):
    attr = KMExAttribution(make_net(), "stage2", n_prototypes=2).fit([(images, labels)])
    attr.save(tmp_path / "b")
    loaded = KMExAttribution.load(tmp_path / "b", make_net())
    assert torch.equal(loaded.attribute(images, target=0), attr.attribute(images, target=0))


def test_file_of_a_release_without_votes_is_read(path, images, fitted):
    rewrite(path, lambda _, header: header["settings"].pop("vote"))
    loaded = LayerKMeansAttribution.load(path, make_net())
    assert torch.equal(loaded.classify(images).scores, fitted.classify(images).scores)


def test_file_is_safetensors_without_pickle(path):
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    assert set(json.loads(content[8 : 8 + size])) == {"__metadata__", *load_file(path)}
    assert b"PK\x03\x04" not in content[:4]  # torch.save writes a zip
    assert b"\x80\x04\x95" not in content  # frame of a protocol-4 pickle


def test_header_tells_where_prototypes_come_from(path):
    _, header = read_parts(path)
    assert header["schema_version"] == 2
    assert header["layers"] == LAYERS
    assert header["provenance"]["n_images"] == 12
    assert header["provenance"]["options"]["seed"] == 0
    assert "torch" in header["provenance"]["versions"]


def test_saved_file_has_the_users_permissions(fitted, tmp_path):
    old = os.umask(0o022)
    try:
        fitted.save(tmp_path / "b")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o644


@pytest.mark.parametrize("keep", [0, 5, 300, -1], ids=["empty", "length", "header", "last_byte"])
def test_load_raises_for_truncated_file(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="truncated or no safetensors file"):
        PrototypeBank.load(path)


def test_load_raises_for_file_of_another_kind(tmp_path):
    torch.save({"a": 1}, tmp_path / "b")
    with pytest.raises(ValueError, match="truncated or no safetensors file"):
        PrototypeBank.load(tmp_path / "b")


def test_load_raises_for_foreign_safetensors(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "b")
    with pytest.raises(ValueError, match="is a safetensors file, but no prototype bank"):
        PrototypeBank.load(tmp_path / "b")


def test_load_raises_for_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no bank at .*; write one with save"):
        PrototypeBank.load(tmp_path / "none")


def drop(name):
    return lambda tensors, header: tensors.pop(name)


def set_header(**values):
    return lambda tensors, header: header.update(values)


def drop_header(name):
    return lambda tensors, header: header.pop(name)


def cut(name, rows):
    return lambda tensors, header: tensors.update({name: tensors[name][:rows].clone()})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_header(schema_version=3), "schema version 3, this release reads 1 and 2; upgrade"),
        (drop_header("schema_version"), "schema version None"),
        (drop("1.centroids"), "lacks '1.centroids'"),
        (drop("2.spread"), "lacks '2.spread'"),
        (drop("0.representatives.boxes"), "lacks '0.representatives.boxes'"),
        (drop_header("fingerprint"), "lacks 'fingerprint'"),
        (drop_header("n_classes"), "lacks 'n_classes'"),
        (set_header(fingerprint={"weights": "0"}), "lacks .*architecture"),
        (set_header(n_depths=4), "4 codebooks and 3 weights for 3 layers"),
        (
            cut("1.membership", 3),
            r"1.membership is torch.int64 of shape \(3,\), .* of shape \(6\); the file is damaged",
        ),
        (cut("0.centroids", 3), r"0.membership .* of shape \(6,\), .*\(3\); the file is damaged"),
        (
            cut("0.representatives.indices", 2),
            r"0.representatives.indices .*\(6, patches\); the file is damaged",
        ),
        (set_header(n_depths=1), "damaged"),
        (set_header(weights=[1.0]), "damaged"),
        (set_header(n_classes=2), "damaged"),
        (set_header(input_range=[0.0]), "damaged"),
        (lambda t, h: t.update({"1.centroids": t["1.centroids"][:, :3].clone()}), "damaged"),
    ],
    ids=[
        "newer_schema",
        "no_schema",
        "no_centroids",
        "no_spread",
        "no_boxes",
        "no_fingerprint",
        "no_n_classes",
        "half_fingerprint",
        "more_depths",
        "membership_shape",
        "centroids_shape",
        "indices_shape",
        "fewer_depths",
        "fewer_weights",
        "fewer_classes",
        "half_range",
        "narrower_centroids",
    ],
)
def test_load_raises_for_damaged_file(path, edit, message):
    rewrite(path, edit)
    with pytest.raises(ValueError, match=message):
        PrototypeBank.load(path)


def put(name, value, at=0):
    """Change one number of a tensor."""

    def change(tensors, header):
        tensors[name].view(-1)[at] = value

    return change


def retype(name, dtype):
    return lambda tensors, header: tensors.update({name: tensors[name].to(dtype)})


def put_setting(**values):
    return lambda tensors, header: header["settings"].update(values)


def put_note(**values):
    return lambda tensors, header: header["provenance"].update(values)


SHA = "0" * 64
WRONG = {
    "method_unknown": (set_header(method="Other"), "method is 'Other', not one of"),
    "method_number": (set_header(method=3), "method is 3, not a text"),
    "method_long": (set_header(method="x" * 10**6), "method is 'x{60}', not one of"),
    "layers_text": (set_header(layers="stage1"), "layers is 'stage1', not a list of texts"),
    "layers_numbers": (set_header(layers=[1, 2, 3]), "layers is a list of 3, not a list of texts"),
    "layers_twice": (set_header(layers=["a", "a", "b"]), "layers is a list of 3, not distinct"),
    "at_input_number": (set_header(at_input=0), "at_input is 0, not true or false"),
    "at_input_text": (set_header(at_input="false"), "at_input is 'false', not true or false"),
    "weights_zero": (set_header(weights=[1.0, 0.0, 1.0]), "not a list of finite numbers above 0"),
    "weights_negative": (set_header(weights=[1, -1, 1]), "weights is a list of 3, not a list of"),
    "weights_true": (set_header(weights=[1, True, 1]), "weights is a list of 3, not a list of"),
    "weights_text": (set_header(weights=["1", "1", "1"]), "weights is a list of 3, not a list of"),
    "weights_huge": (set_header(weights=[1, 10**400, 1]), "weights is a list of 3, not a list of"),
    "depths_many": (set_header(n_depths=10**9), "1000000000 codebooks and 3 weights"),
    "depths_huge": (set_header(n_depths=10**400), "n_depths is a huge integer, not an integer"),
    "depths_none": (set_header(n_depths=0), "n_depths is 0, not an integer from 1"),
    "depths_fraction": (set_header(n_depths=3.0), "n_depths is 3.0, not an integer"),
    "classes_none": (set_header(n_classes=0), "n_classes is 0, not an integer from 1"),
    "classes_negative": (set_header(n_classes=-3), "n_classes is -3, not an integer"),
    "classes_text": (set_header(n_classes="3"), "n_classes is '3', not an integer"),
    "classes_true": (set_header(n_classes=True), "n_classes is True, not an integer"),
    "range_reversed": (set_header(input_range=[1.0, 0.0]), "not a least and a greatest value"),
    "range_of_three": (set_header(input_range=[0.0, 1.0, 2.0]), "not a least and a greatest"),
    "range_text": (set_header(input_range="01"), "input_range is '01', not a list"),
    "fingerprint_short": (
        set_header(fingerprint={"architecture": SHA, "weights": "ab"}),
        "fingerprint.weights is 'ab', not a SHA-256",
    ),
    "fingerprint_text": (set_header(fingerprint="ab"), "fingerprint is 'ab', not an object"),
    "fingerprint_more": (
        set_header(fingerprint={"architecture": SHA, "weights": SHA, "x": 1}),
        "fingerprint.'x' is no known field",
    ),
    "provenance_list": (set_header(provenance=[]), "provenance is a list of 0, not an object"),
    "images_text": (put_note(n_images="12"), "provenance.n_images is '12', not an integer"),
    "rows_text": (put_note(rows_seen="12"), "provenance.rows_seen is '12', not a list"),
    "rows_negative": (put_note(rows_kept=[4, -4, 4]), "provenance.rows_kept is a list of 3"),
    "options_list": (put_note(options=[1]), "provenance.options is a list of 1, not an object"),
    "versions_empty": (put_note(versions={}), "lacks 'provenance.versions"),
    "versions_number": (
        put_note(versions={"torch": 2, "captum_kmex": "1"}),
        "provenance.versions.torch is 2, not a text",
    ),
    "field_unknown": (set_header(colour="blue"), "'colour' is no known field"),
    "settings_text": (set_header(settings="x"), "settings is 'x', not an object"),
    "setting_unknown": (put_setting(colour="blue"), "settings.'colour' is no known field"),
    "prototypes_none": (put_setting(n_prototypes=0), "settings.n_prototypes: n_prototypes"),
    "prototypes_true": (put_setting(n_prototypes=True), "settings.n_prototypes: n_prototypes"),
    "prototypes_pairs": (put_setting(n_prototypes=[[0, 1], 2]), "holds what is no pair"),
    "prototypes_triple": (put_setting(n_prototypes=[[0, 1, 2]]), "holds what is no pair"),
    "prototypes_text": (
        put_setting(n_prototypes=[[0, "1"]]),
        "settings.n_prototypes: n_prototypes",
    ),
    "prototypes_twice": (
        put_setting(n_prototypes=[[0, 1], [0, 2]]),
        "what is no class, or a class twice",
    ),
    "prototypes_object": (
        put_setting(n_prototypes={"0": 1}),
        "settings.n_prototypes: n_prototypes",
    ),
    "seed_fraction": (put_setting(seed=0.5), "settings.seed: seed"),
    "seed_huge": (put_setting(seed=2**63), "settings.seed: seed"),
    "clusters_none": (put_setting(n_clusters=0), "settings.n_clusters: n_clusters"),
    "weighting_unknown": (put_setting(weighting="heavy"), "settings.weighting: weighting"),
    "weighting_short": (put_setting(weighting=[1.0]), "is not one number for each of 3 layers"),
    "weighting_zero": (put_setting(weighting=[1, 0, 1]), "settings.weighting: weighting"),
    "weighting_number": (put_setting(weighting=1.0), "settings.weighting: weighting"),
    "average_top_text": (put_setting(average_top="no"), "settings.average_top: average_top"),
    "vote_unknown": (put_setting(vote="loud"), "settings.vote: vote"),
    "head_number": (put_setting(head=1), "settings.head is 1, not a text"),
    "surrogate_alone": (
        set_header(surrogate={"layer": "stage3", "r2": 0.5}),
        "lacks 'surrogate.columns'",
    ),
    "tensor_extra": (lambda t, h: t.update(extra=torch.ones(1)), "'extra' is no known tensor"),
    "depth_extra": (lambda t, h: t.update({"3.counts": torch.ones(1)}), "'3.counts' is no known"),
    "centroid_nan": (put("0.centroids", float("nan")), "0.centroids holds values out of their"),
    "centroid_infinite": (put("2.centroids", float("inf")), "2.centroids holds values out of"),
    "centroid_integers": (retype("0.centroids", torch.int64), "0.centroids is torch.int64"),
    "centroids_complex": (
        lambda t, h: t.update({"0.centroids": t["0.centroids"].unsqueeze(0)}),
        r"0.centroids is torch.float32 of shape \(1, 6, 18\)",
    ),
    "no_prototypes": (
        lambda t, h: t.update({k: v[:0] for k, v in t.items() if k.startswith("1.")}),
        "depth 1 has no prototypes",
    ),
    "class_negative": (put("0.membership", -1), "0.membership holds values out of their range"),
    "class_too_large": (put("1.membership", 3), "1.membership holds values out of their range"),
    "class_int32": (retype("0.membership", torch.int32), "0.membership is torch.int32"),
    "count_negative": (put("0.counts", -1), "0.counts holds values out of their range"),
    "count_float": (retype("0.counts", torch.float32), "0.counts is torch.float32"),
    "spread_negative": (put("0.spread", -1.0), "0.spread holds values out of their range"),
    "spread_nan": (put("0.spread", float("nan")), "0.spread holds values out of their range"),
    "spread_double": (retype("0.spread", torch.float64), "0.spread is torch.float64 of shape"),
    "index_negative": (put("0.representatives.indices", -2), "indices holds values out of their"),
    "index_none": (put("0.representatives.indices", -1), "is -1 where 0.representatives.distan"),
    "distance_infinite": (put("0.representatives.distances", float("inf")), "is -1 where 0.repr"),
    "distance_negative": (put("0.representatives.distances", -1.0), "distances holds values out"),
    "distance_nan": (put("0.representatives.distances", float("nan")), "distances holds values"),
    "box_negative": (put("0.representatives.boxes", -1), "boxes holds values out of their range"),
    "box_reversed": (put("0.representatives.boxes", 99), "holds boxes that end before they begin"),
    "box_of_three": (
        lambda t, h: t.update(
            {"0.representatives.boxes": t["0.representatives.boxes"][..., :3].clone()}
        ),
        r"boxes is torch.int64 of shape \(6, 2, 3\)",
    ),
}


@pytest.mark.parametrize(("edit", "message"), WRONG.values(), ids=WRONG.keys())
def test_load_raises_for_a_wrong_field_under_a_right_checksum(path, edit, message):
    rewrite(path, edit)
    with pytest.raises(
        ValueError, match=rf"a.safetensors: .*{message}.*; the file is damaged, fit"
    ):
        PrototypeBank.load(path)


def set_shares(value):
    return lambda tensors, header: tensors["0.membership"].view(-1)[:2].copy_(torch.tensor(value))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_shares([0.5, 0.6]), "shares of the classes that do not sum to 1"),
        (set_shares([-0.5, 1.5]), "0.membership holds values out of their range"),
        (set_shares([float("nan"), 0.0]), "0.membership holds values out of their range"),
        (set_header(n_classes=4), "n_logits does not make the 4 classes"),
        (set_header(method="KMExAttribution"), "KMExAttribution has one layer"),
    ],
    ids=["sum", "negative", "nan", "classes", "method"],
)
def test_load_raises_for_wrong_shares_of_a_class_agnostic_bank(images, tmp_path, edit, message):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=3)
    attr.fit([images], labels=None, n_representatives=0).save(tmp_path / "b")
    rewrite(tmp_path / "b", edit)
    with pytest.raises(ValueError, match=message):
        PrototypeBank.load(tmp_path / "b")


def test_save_refuses_what_load_would_refuse(fitted, tmp_path):
    fitted.bank_.codebooks[0].centroids[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"cannot be saved: 0.centroids holds values out .*; fit"):
        fitted.save(tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_loaded_bank_does_not_depend_on_its_file(fitted, path):
    loaded = PrototypeBank.load(path)
    path.write_bytes(bytes(path.stat().st_size))
    os.truncate(path, 10)
    assert_equal(loaded, fitted.bank_)


def as_of_0_1_0(path) -> None:
    tensors, header = read_parts(path)
    save_file(tensors, path, {"captum_kmex": json.dumps(header | {"schema_version": 1})})


@pytest.mark.parametrize(
    "load",
    [PrototypeBank.load, lambda path: LayerKMeansAttribution.load(path, make_net()).bank_],
    ids=["bank", "attribution"],
)
def test_bank_of_0_1_0_is_read_with_a_warning_at_the_users_line(fitted, path, load):
    as_of_0_1_0(path)
    with pytest.warns(UncheckedFileWarning, match="without a checksum.*load and save it") as seen:
        loaded = load(path)
    assert_equal(loaded, fitted.bank_)
    assert seen[0].filename == __file__
    loaded.save(path)
    assert_equal(PrototypeBank.load(path), fitted.bank_)


@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.UncheckedFileWarning")
@pytest.mark.parametrize("name", ["centroid_nan", "class_negative", "vote_unknown", "depths_many"])
def test_bank_of_0_1_0_is_checked_all_the_same(path, name):
    edit, message = WRONG[name]
    rewrite(path, edit)
    as_of_0_1_0(path)
    with pytest.raises(ValueError, match=message):
        PrototypeBank.load(path)


def test_remains_of_a_killed_save_are_removed_by_the_next(fitted, path):
    left = path.with_name(f".{path.name}.{'0123456789abcdef' * 2}")
    left.mkdir()
    (left / ".tmpA1b2C3").write_bytes(bytes(9))
    fitted.save(path)
    assert os.listdir(path.parent) == [path.name]


class Own(LayerKMeansAttribution):
    """A user's subclass."""


@pytest.mark.parametrize("other", [Own, LayerKMeansAttribution])
def test_bank_of_a_subclass_is_its_parents_too(images, labels, tmp_path, other):
    attr = Own(make_net(), LAYERS, n_prototypes=1).fit([(images, labels)], n_init=1)
    attr.save(tmp_path / "b")
    assert torch.equal(other.load(tmp_path / "b", make_net()).predict(images), attr.predict(images))


def test_load_raises_for_header_that_is_no_json(path):
    save_file(load_file(path), path, {"captum_kmex": "{"})
    with pytest.raises(ValueError, match="damaged"):
        PrototypeBank.load(path)


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_failed_save_keeps_old_file_and_leaves_no_other(fitted, path, monkeypatch, function):
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="No space left"):
        fitted.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_save_replaces_an_earlier_file(fitted, path):
    path.write_bytes(b"old")
    fitted.save(path)
    assert_equal(PrototypeBank.load(path), fitted.bank_)


def test_load_refuses_other_weights(path):
    with pytest.raises(ValueError, match="fitted on a model with other weights"):
        LayerKMeansAttribution.load(path, make_net(seed=1))


def test_load_refuses_another_architecture(path):
    with pytest.raises(ValueError, match="fitted on a model with another architecture"):
        LayerKMeansAttribution.load(path, make_net(n_classes=4))


def test_load_accepts_other_weights_when_not_strict(path, images):
    loaded = LayerKMeansAttribution.load(path, make_net(seed=1), strict=False)
    assert loaded.attribute(images).shape == (12, 1, 16, 16)


def test_bank_is_never_used_with_another_number_of_classes(path, images):
    loaded = LayerKMeansAttribution.load(path, make_net(n_classes=4), strict=False)
    with pytest.raises(ValueError, match="fitted on 3 logits, the model returns 4"):
        loaded.attribute(images)


def test_load_refuses_another_method(path):
    with pytest.raises(ValueError, match="fitted by LayerKMeansAttribution, not by KMExAttri"):
        KMExAttribution.load(path, make_net(), strict=False)


def test_load_refuses_model_without_the_layers(path):
    with pytest.raises(ValueError, match="layer 'stage1' is not in the model"):
        LayerKMeansAttribution.load(path, torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)))


def test_fingerprint_is_the_same_for_a_copy():
    assert ModelFingerprint.of(make_net()) == ModelFingerprint.of(make_net())


def test_fingerprint_tells_a_changed_weight():
    net = make_net()
    before = ModelFingerprint.of(net)
    with torch.no_grad():
        net.head.bias[0] += 1e-3
    after = ModelFingerprint.of(net)
    assert after.architecture == before.architecture
    assert after.weights != before.weights


def test_fingerprint_ignores_training_mode():
    assert ModelFingerprint.of(make_net().train()) == ModelFingerprint.of(make_net())


def test_fingerprint_takes_scalar_bool_and_bfloat16_tensors():
    module = torch.nn.BatchNorm2d(2).bfloat16()
    module.register_buffer("flag", torch.tensor([True, False]))
    assert len(ModelFingerprint.of(module).weights) == 64


def test_round_trip_keeps_the_name_of_the_head(images, labels, tmp_path):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2, head="head")
    attr.fit([(images, labels)], n_init=1).save(tmp_path / "b")
    assert LayerKMeansAttribution.load(tmp_path / "b", make_net()).head == "head"


def test_load_asks_again_for_a_head_of_ones_own(images, labels, tmp_path):
    own = torch.nn.Linear(8, 3)
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2, head=own)
    attr.fit([(images, labels)], n_init=1).save(tmp_path / "b")
    with pytest.raises(ValueError, match="fitted with a head of your own; pass it again"):
        LayerKMeansAttribution.load(tmp_path / "b", make_net())
    loaded = LayerKMeansAttribution.load(tmp_path / "b", make_net(), head=own)
    assert torch.equal(loaded.attribute(images), attr.attribute(images))
