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
from captum_kmex.bank import ModelFingerprint

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
    header = json.loads(content[8 : 8 + size])["__metadata__"]["captum_kmex"]
    return load_file(path), json.loads(header)


def rewrite(path, edit) -> None:
    """Let ``edit(tensors, header)`` change a file in place."""
    tensors, header = read_parts(path)
    edit(tensors, header)
    save_file(tensors, path, {"captum_kmex": json.dumps(header)})


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
    assert header["schema_version"] == 1
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
        (set_header(schema_version=2), "schema version 2, this release reads 1"),
        (drop_header("schema_version"), "schema version None"),
        (drop("1.centroids"), "lacks 'centroids'"),
        (drop("2.spread"), "lacks 'spread'"),
        (drop("0.representatives.boxes"), "lacks 'representatives.boxes'"),
        (drop_header("fingerprint"), "lacks 'fingerprint'"),
        (drop_header("n_classes"), "lacks 'n_classes'"),
        (set_header(fingerprint={"weights": "0"}), "lacks .*architecture"),
        (set_header(n_depths=4), "lacks 'centroids'"),
        (cut("1.membership", 3), "depth 1: centroids .*the file is damaged"),
        (cut("0.centroids", 3), "depth 0: centroids .*the file is damaged"),
        (cut("0.representatives.indices", 2), "depth 0: centroids .*the file is damaged"),
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
