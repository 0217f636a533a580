"""Batches and items of every kind give the same inputs, label and name, or say why not."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from nets import LAYERS, make_net
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from captum_kmex import ClassifierPrototypes, KMExAttribution, LayerKMeansAttribution
from captum_kmex.concepts import image_of
from captum_kmex.data.batches import IndexedBatches
from captum_kmex.data.items import BATCH, ITEM, inputs_of, label_of, label_tensor, name_of
from captum_kmex.metrics.embedding import pooled_embeddings
from captum_kmex.metrics.surrogate_scores import surrogate_scores
from captum_kmex.metrics.wins import prototype_wins
from captum_kmex.report import write_report
from captum_kmex.report.samples import read_batches

CPU = torch.device("cpu")
X, Y, SITE = torch.rand(4, 1, 6, 6), torch.tensor([0, 1, 2, 0]), torch.tensor([7, 7, 8, 8])
QUICK = {"n_init": 1, "n_representatives": 1}

Pair = namedtuple("Pair", "image label")
Sample = namedtuple("Sample", "site image label")
Visit = namedtuple("Visit", "image site")


@dataclass
class Scan:
    site: object
    image: object
    target: object


class Encoding(UserDict):
    """As tokenizers' and image processors' batches are."""


def one(loader) -> tuple[tuple[Tensor, ...], Tensor | None]:
    (batch,) = IndexedBatches(loader, CPU)
    return batch.inputs, batch.targets


NAMED = {
    "dict": {"image": X, "label": Y},
    "labels": {"pixel_values": X, "labels": Y},
    "more_keys": {"site": SITE, "image": X, "age": SITE.float(), "label": Y, "path": list("abcd")},
    "synonym": OrderedDict(target=Y, img=X),
    "y": {"x": X, "y": Y},
    "capitals": {"Image": X, "Label": Y},
    "label_before_synonym": {"image": X, "target": SITE, "label": Y},
    "user_dict": Encoding(pixel_values=X, labels=Y),
    "list_of_labels": {"image": X, "label": [0, 1, 2, 0]},
    "named_tuple": Pair(X, Y),
    "named_triple": Sample(SITE, X, Y),
    "dataclass": Scan(SITE, X, Y),
    "mask_of_tokens": {"image": X, "pixel_mask": torch.ones(4, 6, 6).long(), "label": Y},
    "feature_vector": {"image": X, "age_and_sex": torch.rand(4, 2), "label": Y},
}


@pytest.mark.parametrize("batch", NAMED.values(), ids=NAMED)
def test_image_and_label_are_found_by_name(batch):
    (inputs,), targets = one([batch])
    assert inputs is X
    assert torch.equal(targets, Y)


@pytest.mark.parametrize(
    "batch",
    [{"image": X}, {"image": X, "site": SITE}, Visit(X, SITE), (X, None), (X, [None] * 4), [X]],
    ids=["dict", "other_key", "named_tuple", "none", "nones", "list"],
)
def test_what_nobody_calls_a_label_is_none(batch):
    (inputs,), targets = one([batch])
    assert inputs is X
    assert targets is None


@pytest.mark.parametrize(
    "batch",
    [((X, SITE), Y), [[X, SITE], Y], {"inputs": (X, SITE), "label": Y}, Pair((X, SITE), Y)],
    ids=["tuple", "list", "dict", "named_tuple"],
)
def test_several_inputs_of_a_model_stay_together(batch):
    inputs, targets = one([batch])
    assert inputs[0] is X
    assert inputs[1] is SITE
    assert torch.equal(targets, Y)


LABELS = {
    "int32": Y.int(),
    "array": Y.numpy(),
    "list": Y.tolist(),
    "tensors": list(Y),
    "column": Y[:, None],
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_of_every_form_are_a_tensor(labels):
    assert torch.equal(label_tensor(labels, 4).long(), Y)


@pytest.mark.parametrize("make", [torch.stack, list], ids=["tensor", "list"])
def test_one_hot_rows_stay_rows(make):
    rows = torch.nn.functional.one_hot(Y, 3).float()
    assert torch.equal(label_tensor(make(list(rows)), 4), rows)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((X, SITE, Y), r"4, 1, 6, 6\); 1: int64 tensor \(4,\); 2: int64 tensor \(4,\)"),
        ([X, SITE, Y], "a batch has 3 parts.*collate_fn="),
        ((X, X, Y), r"1: float32 tensor \(4, 1, 6, 6\).*\(\(images, others\), labels\)"),
        ((X, Y, list("abcd")), "2: list of str 'a', str 'b'"),
        ((X, Y, {"site": 1}, SITE), "4 parts.*2: dict of 'site': int 1"),
        ({"image": X, "mask": X, "label": Y}, "input nobody says: 'image': .*'mask': float32"),
        ({"image": X, "label": Y, "labels": SITE}, "label nobody says: 'label', 'labels'"),
        ({"image": X, "target": Y, "y": SITE}, "label nobody says: 'target', 'y'"),
        ((X, X), r"got float32 tensor \(4, 1, 6, 6\), which looks like masks or a second input"),
        ({"image": X, "label": X}, "looks like masks"),
        ((X, torch.zeros(4, 6, 6).long()), "of a mask take the class of its image"),
        ((X, ["cat", "dog", "cat", "dog"]), "got list of str 'cat'.*number of its class"),
        ((X, [0, None, 1, 2]), "got list of int 0, None"),
        ((X, [{"boxes": 1}] * 4), "got list of dict of 'boxes': int 1"),
        ((X, {"site": Y}), "got dict of 'site': int64 tensor"),
        ((X, Y[:3]), r"integers \(4,\) or multi-hot.*got torch.int64 of shape \(3,\)"),
        ((X, Y[:1]), r"shape \(1,\)"),
        ((X, torch.eye(3)), r"shape \(3, 3\)"),
        ((X, 1), r"shape \(\)\. Is it one item\? Wrap the data set"),
        ((X, Y.to(torch.complex64)), "got torch.complex64"),
    ],
)
def test_what_could_be_misread_is_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        one([batch])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"image": X.byte(), "label": Y}, r"got dict of 'image': uint8 tensor \(4, 1, 6, 6\)"),
        ({"image": "cat.png", "label": 3}, "got dict of 'image': str 'cat.png', 'label': int 3"),
        ({}, "got dict of nothing"),
        ((X.numpy(), Y), r"got tuple of float32 array \(4, 1, 6, 6\), int64 tensor \(4,\)"),
        (([], Y), "got tuple of list of nothing"),
        (torch.tensor(1.0), r"got float32 tensor \(\)"),
        (None, "got None"),
        (7, "got int 7"),
        (object(), "got object"),
    ],
)
def test_batches_without_an_image_tensor_are_described(batch, message):
    with pytest.raises(TypeError, match=message + r".*Adapt it with collate_fn="):
        one([batch])


def test_a_dict_of_tensors_is_no_loader():
    with pytest.raises(TypeError, match=r"got dict\. Wrap it"):
        IndexedBatches({"image": X, "label": Y}, CPU)


IMAGE = X[0]
ITEMS = {
    "tuple": (IMAGE, 2, "a.png"),
    "dict": {"image": IMAGE, "label": 2, "name": "a.png"},
    "more_keys": {"site": 3, "path": "a.png", "image": IMAGE, "label": torch.tensor(2)},
    "named_tuple": namedtuple("Item", "filename image target")("a.png", IMAGE, np.int64(2)),
    "several_inputs": ((IMAGE, SITE), 2, "a.png"),
}


@pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS)
def test_items_are_read_as_batches_are(item):
    assert image_of([item], 0) is IMAGE
    assert name_of(item) == "a.png"
    (samples,) = read_batches([item], 1)
    assert samples.labels.tolist() == [2]
    assert samples.names == ("a.png",)


def test_an_item_of_more_parts_has_an_image_but_no_label():
    """As the training set behind a ``collate_fn``, of which figures need the image alone."""
    item = (IMAGE, 3, 2)
    assert image_of([item], 0) is IMAGE
    with pytest.raises(ValueError, match=r"an item has 3 parts.*1: int 3; 2: int 2.*, name"):
        label_of(item, ITEM)
    with pytest.raises(ValueError, match="an item has 3 parts"):
        list(read_batches([item], 1))


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        ("cat.png", TypeError, "got str 'cat.png'"),
        ((IMAGE.numpy(), 2), TypeError, r"got tuple of float32 array \(1, 6, 6\), int 2"),
        ({"image": IMAGE.byte()}, TypeError, "got dict of 'image': uint8 tensor"),
        (X, TypeError, r"got float32 tensor \(4, 1, 6, 6\)"),
        ({"image": IMAGE, "mask": IMAGE}, ValueError, "'image': .*'mask'"),
    ],
    ids=["text", "array", "bytes", "batch", "two_images"],
)
def test_items_without_an_image_are_described(item, error, message):
    with pytest.raises(error, match=message):
        image_of([item], 0)


def test_inputs_and_labels_of_signals_and_volumes_are_found_by_name():
    for shape in ((4, 2, 30), (4, 1, 5, 6, 7)):
        x = torch.rand(shape)
        assert inputs_of({"signal": x, "label": Y}, BATCH) == (x,)


class Dicts(TensorDataset):
    """Items by name, with a site that is no label."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return {"site": index // 6, "image": image, "label": label}


@pytest.fixture
def dicts(images, labels) -> Dicts:
    return Dicts(images, labels)


def test_banks_of_dicts_are_those_of_pairs(dicts, images, labels):
    for make in (
        lambda: LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=1),
        lambda: KMExAttribution(make_net(), n_prototypes=1),
    ):
        ours = make().fit(DataLoader(dicts, 5, shuffle=True), **QUICK).bank_.codebooks[0]
        theirs = make().fit([(images, labels)], **QUICK).bank_.codebooks[0]
        torch.testing.assert_close(ours.centroids, theirs.centroids)
        assert torch.equal(ours.representatives.indices, theirs.representatives.indices)


def test_what_reads_a_labelled_loader_reads_dicts(dicts, images, labels):
    pairs = [(images, labels)]
    loader = DataLoader(dicts, 5)
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=1).fit(pairs, **QUICK)
    kmex = KMExAttribution(make_net(), n_prototypes=1).fit(pairs, **QUICK)
    head = ClassifierPrototypes(make_net())
    assert torch.equal(prototype_wins(attr, loader).counts, prototype_wins(attr, pairs).counts)
    assert surrogate_scores(kmex, loader) == surrogate_scores(kmex, pairs)
    assert kmex.alignment(loader).class_cosine == pytest.approx(kmex.alignment(pairs).class_cosine)
    assert head.alignment(loader).out_cosine == pytest.approx(head.alignment(pairs).out_cosine)
    assert torch.equal(pooled_embeddings(head, loader)[1], labels)


def test_what_reads_a_data_set_reads_dicts(dicts, images, labels, tmp_path):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=1)
    attr.fit(DataLoader(dicts, 5), **QUICK)
    result = attr.explain(images[:1])
    assert len(result.plot(dataset=dicts)[1]) > 4
    result.save(tmp_path / "one", dataset=dicts)
    concepts = attr.to_concepts(dicts, [0], depth=2)
    expected = attr.to_concepts(TensorDataset(images, labels), [0], depth=2)
    pairs = zip(concepts[0].data_iter, expected[0].data_iter, strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    options = {"show_progress": False, "title": "t"}
    ours = write_report(attr, dicts, tmp_path / "a.html", train_set=dicts, **options)
    data = TensorDataset(images, labels)
    theirs = write_report(attr, data, tmp_path / "b.html", train_set=data, **options)
    assert ours.read_text() == theirs.read_text()


@pytest.mark.parametrize("labels", ["target", "predicted", None])
def test_fit_refuses_a_third_part_whatever_the_labels(labels, images):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=1)
    with pytest.raises(ValueError, match="a batch has 3 parts"):
        attr.fit([(images, torch.zeros(12).long(), torch.arange(12) % 3)], labels=labels)
