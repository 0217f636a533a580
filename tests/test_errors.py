"""Every error of a user's day, through the public methods of all three classes."""

from __future__ import annotations

import os

import pytest
import torch
from conftest import LAYERS, SmallNet, make_net
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_kmex import (
    ClassifierPrototypes,
    HeadNotFoundError,
    KMExAttribution,
    LayerKMeansAttribution,
    NotFittedError,
)
from captum_kmex.exceptions import FewRowsWarning, RepresentativesWarning, TrainModeWarning

pytestmark = pytest.mark.filterwarnings("ignore:.*feature vectors a prototype")

MAKERS = {
    "prototypes": lambda net, layer="stage3": ClassifierPrototypes(net, layer),
    "kmex": lambda net, layer="stage3": KMExAttribution(net, layer, n_prototypes=2),
    "kmeans": lambda net, layer="stage3": LayerKMeansAttribution(net, [layer], n_prototypes=2),
}
FITTED = {name: make for name, make in MAKERS.items() if name != "prototypes"}
every = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
fitted = pytest.mark.parametrize("make", FITTED.values(), ids=FITTED)


def ready(make, net, images, labels, *layer):
    """Return an object that can attribute."""
    attribution = make(net, *layer)
    if not isinstance(attribution, ClassifierPrototypes):
        attribution.fit([(images, labels)], n_init=1)
    return attribution


@every
def test_unknown_layer_names_the_nearest(make, images, labels):
    with pytest.raises(ValueError, match="layer 'stage33' is not in the model SmallNet; did you"):
        ready(make, make_net(), images, labels, "stage33").attribute(images)


@every
def test_layer_of_another_model_is_refused(make, images, labels):
    with pytest.raises(ValueError, match="Sequential module is not part of the model SmallNet"):
        ready(make, make_net(), images, labels, make_net().stage3).attribute(images)


@every
def test_layer_that_never_ran_is_named(make, images, labels):
    net = make_net()
    net.spare = nn.Conv2d(1, 1, 1)
    with pytest.raises(ValueError, match="layer 'spare' did not run in the forward pass"):
        ready(make, net, images, labels, "spare").attribute(images)


@every
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
def test_nan_or_inf_names_the_layer(make, images, labels, value):
    net = make_net()
    attribution = ready(make, net, images, labels)
    with torch.no_grad():
        net.stage3[0].weight[0] = value
    with pytest.raises(ValueError, match="layer 'stage3' holds NaN or Inf; check the inputs"):
        attribution.attribute(images)


@every
@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (torch.zeros(1, 16, 16), ValueError, r"got \(1, 16, 16\); add the batch dimension"),
        (torch.zeros(0, 1, 16, 16), ValueError, r"images \(N, C, H, W\); got \(0, 1, 16, 16\)"),
        (torch.zeros(2, 1, 16, 16, dtype=torch.uint8), ValueError, "got torch.uint8"),
        ("cat.png", TypeError, r"tensor or a tuple of tensors; got \['str'\]"),
        ((), TypeError, "tensor or a tuple of tensors"),
    ],
    ids=["one_image", "empty", "bytes", "path", "nothing"],
)
def test_malformed_inputs_are_refused(make, images, labels, inputs, error, message):
    with pytest.raises(error, match=message):
        ready(make, make_net(), images, labels).attribute(inputs)


@every
def test_target_out_of_range_gives_the_range(make, images, labels):
    with pytest.raises(ValueError, match="target 3 is out of range for 3 logits; choose 0 to 2"):
        ready(make, make_net(), images, labels).attribute(images, target=3)


@every
def test_function_instead_of_a_module_is_refused(make, images, labels):
    net = make_net()
    with pytest.raises(TypeError, match=r"needs a torch.nn.Module.*got function"):
        ready(make, lambda x: net(x), images, labels).attribute(images)


@every
def test_output_that_is_no_logits_is_refused(make, images, labels):
    class Pair(SmallNet):
        def forward(self, x):
            return {"logits": super().forward(x)}

    with pytest.raises(ValueError, match=r"must return logits \(N, J\) for 12 images; got dict"):
        ready(make, Pair().eval(), images, labels).attribute(images)


@every
def test_training_mode_warns_and_is_given_back(make, images, labels):
    net = make_net()
    attribution = ready(make, net, images, labels)
    net.train()
    with pytest.warns(TrainModeWarning, match="explained in evaluation mode"):
        maps = attribution.attribute(images, target=0)
    assert net.training
    assert torch.equal(maps, ready(make, make_net(), images, labels).attribute(images, target=0))


def test_softmax_output_is_refused_with_the_fix(images):
    net = nn.Sequential(make_net(), nn.Softmax(1))
    with pytest.raises(HeadNotFoundError, match="return logits, without softmax or scaling"):
        ClassifierPrototypes(net).attribute(images)


def test_layers_out_of_order_are_refused(images):
    with pytest.raises(ValueError, match=r"must stand shallow to deep; got .*they ran as"):
        LayerKMeansAttribution(make_net(), LAYERS[::-1]).attribute(images)


@fitted
def test_unfitted_call_names_fit(make, images):
    attribution = make(make_net())
    with pytest.raises(NotFittedError, match=r"is not fitted.*call fit\(loader\) first"):
        attribution.predict(images)


@fitted
def test_fewer_vectors_than_prototypes_names_both(make, images, labels):
    attribution = make(make_net())
    attribution.n_prototypes = 200
    with pytest.raises(ValueError, match=r"fit saw \d+ feature vectors of class 0, fewer than"):
        attribution.fit([(images, labels)])


@fitted
def test_few_vectors_warn_with_the_class(make, images, labels):
    attribution = make(make_net())
    attribution.n_prototypes = 1 if make is FITTED["kmex"] else 10
    with pytest.warns(FewRowsWarning, match=r"3 of 3 classes kept fewer than 10 .*\(class 0: \d+"):
        attribution.fit([(images[:3], labels[:3])])


@fitted
def test_class_without_samples_is_named(make, images, labels):
    with pytest.raises(ValueError, match=r"1 of 3 classes without samples .*\[2\].*pass classes="):
        make(make_net()).fit([(images[labels < 2], labels[labels < 2])])


@fitted
@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (lambda x, y: x, ValueError, "the loader yields no labels"),
        (lambda x, y: (x, y + 1), ValueError, "label 3 is out of range for 3 logits"),
        (lambda x, y: (x, y - 1), ValueError, "label -1 is out of range for 3 logits"),
        (lambda x, y: (x, y.float()), ValueError, r"must be integers \(12,\) or multi-hot"),
        (lambda x, y: {"x": x}, TypeError, r"a batch must be images or \(images, labels\)"),
    ],
    ids=["unlabelled", "too_large", "negative", "float", "dictionary"],
)
def test_bad_batches_are_refused(make, images, labels, batch, error, message):
    with pytest.raises(error, match=message):
        make(make_net()).fit([batch(images, labels)])


@fitted
@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        ([], ValueError, "yielded no batch"),
        (TensorDataset(torch.zeros(2)), TypeError, "Wrap it: DataLoader"),
        (7, TypeError, "takes a DataLoader or an iterable of batches; got int"),
    ],
    ids=["empty", "dataset", "number"],
)
def test_bad_loaders_are_refused(make, loader, error, message):
    with pytest.raises(error, match=message):
        make(make_net()).fit(loader)


@fitted
def test_loader_read_once_warns_about_patches(make, images, labels):
    with pytest.warns(RepresentativesWarning, match="can be read only once"):
        attribution = make(make_net()).fit(iter([(images, labels)]))
    assert attribution.bank_.codebooks[0].representatives is None


@fitted
def test_budget_below_one_row_is_refused(make, images, labels):
    with pytest.raises(ValueError, match="memory_budget=10 bytes is less than one row"):
        make(make_net()).fit([(images, labels)], memory_budget=10)


@fitted
def test_budget_bounds_the_rows_kept_and_reports_them(make, images, labels):
    attribution = make(make_net()).fit([(images, labels)], memory_budget=480, n_init=1)
    assert attribution.bank_.provenance["rows_kept"] == [4, 4, 4]


@fitted
@pytest.mark.parametrize("path", ["other_weights", "other_architecture"])
def test_bank_of_another_model_is_refused(make, images, labels, tmp_path, path):
    attribution = make(make_net()).fit([(images, labels)])
    attribution.save(tmp_path / "bank")
    other = make_net(seed=1) if path == "other_weights" else make_net(n_classes=4)
    what = path.replace("_", " ").replace("other", "(an)?other")
    with pytest.raises(ValueError, match=f"fitted on a model with {what}: fingerprint"):
        type(attribution).load(tmp_path / "bank", other)


@fitted
def test_bank_of_another_layer_is_refused(make, images, labels):
    attribution = make(make_net()).fit([(images, labels)])
    attribution.layer = attribution.layers = "stage2"
    with pytest.raises(ValueError, match=r"fitted on layers \['stage3'\], this object has"):
        attribution.attribute(images)


@fitted
def test_other_preprocessing_is_refused(make, images, labels):
    attribution = make(make_net()).fit([(images, labels)])
    with pytest.raises(ValueError, match=r"inputs range from .* to 255, the fit saw .*preprocess"):
        attribution.attribute(images / images.max() * 255)


@fitted
def test_full_disk_leaves_the_old_file(make, images, labels, tmp_path, monkeypatch):
    attribution = make(make_net()).fit([(images, labels)])
    attribution.save(tmp_path / "bank")
    before = (tmp_path / "bank").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        attribution.save(tmp_path / "bank")
    assert (tmp_path / "bank").read_bytes() == before
    assert os.listdir(tmp_path) == ["bank"]


@fitted
def test_failed_refit_keeps_the_earlier_bank(make, images, labels):
    attribution = make(make_net()).fit([(images, labels)])
    bank = attribution.bank_
    with pytest.raises(ValueError, match="out of range"):
        attribution.fit(DataLoader(TensorDataset(images, labels + 1), 4))
    assert attribution.bank_ is bank


@fitted
def test_unknown_label_mode_lists_the_choices(make, images, labels):
    with pytest.raises(ValueError, match=r"labels='all' is unknown; choose one of \['target'"):
        make(make_net()).fit([(images, labels)], labels="all")
