"""Every error of a user's day, through the public methods of all three classes."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import pytest
import torch
from nets import LAYERS, SmallNet, make_net
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_kmex import (
    ClassifierPrototypes,
    HeadNotFoundError,
    KMExAttribution,
    LayerKMeansAttribution,
    NotFittedError,
)
from captum_kmex.attributions.fitted_attribution import FittedAttribution
from captum_kmex.attributions.prototype_attribution import PrototypeAttribution
from captum_kmex.exceptions import FewRowsWarning, RepresentativesWarning, TrainModeWarning
from captum_kmex.files.tensor_file import write_tensors

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
def test_output_that_is_no_logits_is_refused(make, images, labels):
    class Pair(SmallNet):
        def forward(self, x):
            return {"one": super().forward(x), "other": super().forward(x)}

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
    net = nn.Sequential(make_net(), nn.Softmax(1)).eval()
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
        (lambda x, y: {"x": x.byte()}, TypeError, r"a batch must be images or \(images, labels\)"),
        (lambda x, y: {"x": x, "site": y}, ValueError, "the loader yields no labels"),
    ],
    ids=["unlabelled", "too_large", "negative", "float", "dictionary", "unlabelled_dictionary"],
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
def test_loader_read_once_warns_about_an_exact_search_for_patches(make, images, labels):
    with pytest.warns(RepresentativesWarning, match="can be read only once"):
        attribution = make(make_net()).fit(iter([(images, labels)]), patch_search="exact")
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


QUICK = {"n_init": 2, "n_representatives": 0}


def with_layer(kind: type[PrototypeAttribution], model: nn.Module, layer: object):
    """Build an attribution that reads one layer of the user's choice, last."""
    if kind is LayerKMeansAttribution:
        return kind(model, ["stage1", layer])
    options = {"n_prototypes": 2} if kind is KMExAttribution else {}
    return kind(model, layer, **options)


def run(attribution: PrototypeAttribution, x: Tensor, y: Tensor) -> None:
    """Read the layers: by a fit where a map needs one first."""
    if isinstance(attribution, KMExAttribution):
        attribution.fit([(x, y)], **QUICK)
    else:
        attribution.attribute(x)


@pytest.fixture(
    params=[ClassifierPrototypes, KMExAttribution, LayerKMeansAttribution],
    ids=lambda kind: kind.__name__,
)
def kind(request: pytest.FixtureRequest) -> type[PrototypeAttribution]:
    return request.param


def unfitted(kind: type[FittedAttribution], model: nn.Module, **options: object):
    return kind(model, LAYERS if kind is LayerKMeansAttribution else None, **options)


@pytest.fixture(params=[KMExAttribution, LayerKMeansAttribution], ids=lambda kind: kind.__name__)
def fit_kind(request: pytest.FixtureRequest) -> type[FittedAttribution]:
    return request.param


@pytest.fixture
def loader(images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(images, labels)]


@pytest.fixture(scope="module")
def fits(drawn_images) -> dict[type, FittedAttribution]:
    loader = [(drawn_images, torch.arange(12) % 3)]
    kinds = (KMExAttribution, LayerKMeansAttribution)
    return {kind: unfitted(kind, make_net(), n_prototypes=2).fit(loader, **QUICK) for kind in kinds}


@pytest.fixture
def fit_one(fit_kind, net, fits) -> FittedAttribution:
    """A copy of one fit, on the net of the test."""
    made = fits[fit_kind]
    return copy.deepcopy(made, {id(made.model): net})


@pytest.fixture
def saved(fit_one, tmp_path) -> Path:
    fit_one.save(tmp_path / "bank.safetensors")
    return tmp_path / "bank.safetensors"


# ---------------------------------------------------------------- layers


def test_unknown_layer_name_lists_the_top_level_without_a_near_one(kind, net, images, labels):
    with pytest.raises(ValueError, match=r"layer 'xyz' is not in the model SmallNet\. Top level:"):
        run(with_layer(kind, net, "xyz"), images, labels)


def test_layer_that_is_no_name_or_module_is_refused(kind, net, images, labels):
    message = "(a layer is a name or a module|a layer's name or the module itself); got int"
    with pytest.raises(TypeError, match=message):
        run(with_layer(kind, net, 4), images, labels)


def test_layer_without_a_grid_is_refused(kind, net, images, labels):
    message = r"layer 'head' returned shape \(12, 3\), which has no grid; choose a layer with"
    with pytest.raises(ValueError, match=message):
        run(with_layer(kind, net, "head"), images, labels)


def test_layer_that_returns_no_tensor_is_refused(kind, net, images, labels):
    class Boxed(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"map": x}

    class Unboxed(nn.Module):
        def forward(self, x: dict[str, Tensor]) -> Tensor:
            return x["map"]

    net.stage3.append(Boxed())
    net.stage3.append(Unboxed())
    with pytest.raises(ValueError, match=r"layer 'stage3\.2' returned no tensor; choose a layer"):
        run(with_layer(kind, net, "stage3.2"), images, labels)


@pytest.mark.parametrize("action", ["attribute", "segment", "fit", "explain"])
def test_layers_deep_to_shallow_are_refused(net, images, loader, action):
    attribution = LayerKMeansAttribution(net, LAYERS[::-1])
    message = r"layers must stand shallow to deep; got \['stage3', .*they ran as \['stage1'"
    with pytest.raises(ValueError, match=message):
        getattr(attribution, action)(loader if action == "fit" else images)


@pytest.mark.parametrize("layers", [[], ["stage2", "stage2"]], ids=["none", "twice"])
def test_layers_must_be_distinct_and_some(net, images, layers):
    with pytest.raises(ValueError, match=r"layers=\[.*layers must be distinct and at least one"):
        LayerKMeansAttribution(net, layers).attribute(images)


def test_layer_that_the_head_does_not_read_is_refused(net, images):
    message = "the head does not read layer 'stage2' but 'stage3'; leave layer= out"
    with pytest.raises(ValueError, match=message):
        ClassifierPrototypes(net, "stage2").attribute(images)


@pytest.mark.parametrize("kind", [ClassifierPrototypes, KMExAttribution])
def test_attribute_to_layer_input_needs_a_layer(kind, net, images, loader):
    attribution, data = kind(net), images
    act = attribution.attribute
    if kind is KMExAttribution:
        act, data = attribution.fit, loader
    with pytest.raises(ValueError, match="attribute_to_layer_input=True needs layer="):
        act(data, attribute_to_layer_input=True)


# ---------------------------------------------------------------- inputs


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_values_that_are_not_finite_name_the_layer(kind, net, images, labels, value):
    images[0, 0, 3, 3] = value
    with pytest.raises(ValueError, match=r"layer 'stage[13]' holds NaN or Inf; check the inputs"):
        run(with_layer(kind, net, "stage3"), images, labels)


def test_nan_weights_name_the_first_layer_that_shows_them(net, images):
    with torch.no_grad():
        net.stage2[0].weight[0] = torch.nan
    with pytest.raises(ValueError, match="layer 'stage2' holds NaN or Inf"):
        LayerKMeansAttribution(net, LAYERS).attribute(images)


@pytest.mark.parametrize("kind", [ClassifierPrototypes, KMExAttribution])
def test_nan_inputs_are_named_where_the_layer_is_searched(kind, net, images, labels):
    images[0, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN or Inf"):
        run(with_layer(kind, net, None), images, labels)


def test_nan_weights_of_the_head_are_named(net, images):
    with torch.no_grad():
        net.head.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or Inf"):
        ClassifierPrototypes(net).attribute(images)


@pytest.mark.parametrize("kind", [ClassifierPrototypes, KMExAttribution])
def test_attribute_recovers_after_nan_inputs(kind, net, images, labels):
    attribution = with_layer(kind, net, None)
    with pytest.raises(ValueError):
        run(attribution, torch.full_like(images, torch.nan), labels)
    run(attribution, images, labels)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda x: x.tolist(), TypeError, r"a tensor or a tuple of tensors; got \['list'\]"),
        (lambda x: (x, 1), TypeError, r"got \['Tensor', 'int'\]"),
        (lambda x: (), TypeError, "a tensor or a tuple of tensors"),
        (lambda x: x[0], ValueError, r"got \(1, 16, 16\); add the batch dimension"),
        (
            lambda x: x[:, 0, 0],
            ValueError,
            r"images \(N, C, H, W\); got \(12, 16\); add|got \(12, 16",
        ),
        (lambda x: x[:0], ValueError, r"got \(0, 1, 16, 16\)"),
        (lambda x: x.byte(), ValueError, r"floating point, preprocessed.*got torch\.uint8"),
    ],
    ids=["list", "mixed", "empty-tuple", "no-batch", "vectors", "no-images", "bytes"],
)
def test_inputs_that_are_no_images_are_refused(kind, net, images, loader, spoil, error, message):
    attribution = with_layer(kind, net, "stage3")
    if kind is KMExAttribution:
        attribution.fit(loader, **QUICK)
    with pytest.raises(error, match=message):
        attribution.attribute(spoil(images))


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda z: z[:, :, None], r"logits \(N, J\) for 12 images; got \(12, 3, 1\)\. Wrap it"),
        (lambda z: z[:5], r"logits \(N, J\) for 12 images; got \(5, 3\)"),
        (
            lambda z: {"one": z, "other": z},
            "got dict of 'one': .* Wrap it in a module that returns the logits",
        ),
        (lambda z: (z, z), "got tuple"),
    ],
    ids=["3-d", "too-few", "dictionary", "tuple"],
)
def test_model_that_returns_no_logits_is_refused(kind, images, labels, wrap, message):
    class Wrapped(SmallNet):
        def forward(self, x: Tensor) -> object:
            return wrap(super().forward(x))

    with pytest.raises(ValueError, match=message):
        run(with_layer(kind, Wrapped().eval(), "stage3"), images, labels)


# ---------------------------------------------------------------- heads


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (
            [nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)],
            "further layers stand between pooling and logits",
        ),
        ([nn.LayerNorm(8), nn.Linear(8, 3)], "a normalisation stands between pooling"),
        ([nn.Linear(8, 3), nn.Softmax(1)], "not the output of a linear layer.*return logits"),
        ([nn.Tanh(), nn.Linear(8, 3)], "modules in between: .*Tanh"),
    ],
    ids=["mlp", "norm", "softmax", "tanh"],
)
def test_head_that_is_not_affine_is_refused_with_what_was_found(net, images, tail, reason):
    net.head = nn.Sequential(*tail).eval()
    with pytest.raises(HeadNotFoundError, match=reason):
        ClassifierPrototypes(net).attribute(images)
    with pytest.raises(HeadNotFoundError, match=r"pass head= .* and layer="):
        ClassifierPrototypes(net).attribute(images)
    with pytest.raises(HeadNotFoundError, match=r"pass layer=, the last feature map"):
        KMExAttribution(net).fit([(images, torch.arange(12) % 3)])
    ridge = LayerKMeansAttribution(net, LAYERS, surrogate="ridge")
    with pytest.raises(NotFittedError, match=r"which fit\(loader\) provides"):
        ridge.attribute(images)
    assert LayerKMeansAttribution(net, LAYERS).explain(images).head == "linearised"


@pytest.mark.parametrize("kind", [ClassifierPrototypes, LayerKMeansAttribution])
def test_head_that_is_not_linear_is_refused(kind, net, images):
    layers = LAYERS if kind is LayerKMeansAttribution else "stage3"
    error, message = HeadNotFoundError, "'stage1' is not a Linear or 1x1 Conv2d"
    if kind is LayerKMeansAttribution:
        error = NotFittedError
    with pytest.raises(error, match=message):
        kind(net, layers, head="stage1").attribute(images)
    with pytest.raises(TypeError, match="a head is a Linear or 1x1 Conv2d; got ReLU"):
        kind(net, layers, head=nn.ReLU()).attribute(images)


@pytest.mark.parametrize("kind", [ClassifierPrototypes, LayerKMeansAttribution])
def test_head_name_that_is_unknown_suggests_the_nearest(kind, net, images):
    layers = LAYERS if kind is LayerKMeansAttribution else "stage3"
    with pytest.raises(ValueError, match=r"layer 'haed' is not in the model.*did you mean 'head'"):
        kind(net, layers, head="haed").attribute(images)


@pytest.mark.parametrize("kind", [ClassifierPrototypes, LayerKMeansAttribution])
def test_own_head_of_another_width_is_refused(kind, net, images):
    layers = LAYERS if kind is LayerKMeansAttribution else "stage3"
    message = "the head reads 5 features, the map before it has 8 channels on 4x4 positions; pass"
    with pytest.raises(ValueError, match=message):
        kind(net, layers, head=nn.Linear(5, 3)).attribute(images)


def test_own_head_needs_the_layer_it_reads(net, images):
    with pytest.raises(ValueError, match="a head of your own needs layer=, the map that it reads"):
        ClassifierPrototypes(net, head=nn.Linear(8, 3)).attribute(images)


def test_prototypes_before_the_first_image_ask_for_one(net):
    with pytest.raises(NotFittedError, match=r"call attribute\(x\) once before"):
        _ = ClassifierPrototypes(net).prototypes


def test_prototypes_of_a_refused_model_say_why(net, images):
    net.head = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3)).eval()
    attribution = ClassifierPrototypes(net)
    with pytest.raises(HeadNotFoundError, match="normalisation"):
        attribution.attribute(images)
    with pytest.raises(HeadNotFoundError, match="normalisation"):
        _ = attribution.prototypes


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("option", "value"), [("units", "percent"), ("upsample", "double")], ids=["units", "upsample"]
)
def test_unknown_choice_lists_the_known_ones(kind, net, images, loader, option, value):
    attribution = with_layer(kind, net, "stage3")
    if kind is KMExAttribution:
        attribution.fit(loader, **QUICK)
    with pytest.raises(ValueError, match=rf"{option}='{value}' is unknown; choose one of \["):
        attribution.attribute(images, **{option: value})


def test_unknown_restriction_lists_the_known_ones(net, images, loader):
    attribution = LayerKMeansAttribution(net, LAYERS, n_prototypes=1).fit(loader, **QUICK)
    with pytest.raises(ValueError, match=r"restrict='own' is unknown; choose one of \[None"):
        attribution.attribute(images, restrict="own")


def test_restriction_in_a_class_agnostic_bank_is_refused(net, images):
    attribution = LayerKMeansAttribution(net, LAYERS).fit([images], labels=None, **QUICK)
    with pytest.raises(
        ValueError, match="restrict needs a class-wise fit; this bank has labels=No"
    ):
        attribution.attribute(images, restrict="predicted")


@pytest.mark.parametrize(
    ("weighting", "message"),
    [
        ("equal", "weighting='equal' is unknown; choose one of \\['balanced'"),
        ([1.0, 2.0], "weighting has 2 entries .* for 3 layers; pass one positive number a layer"),
        ([1.0, 0.0, 1.0], "pass one positive number a layer"),
        ([1.0, float("nan"), 1.0], "pass one positive number a layer"),
    ],
    ids=["name", "count", "zero", "nan"],
)
def test_weighting_that_does_not_fit_is_refused(net, images, weighting, message):
    with pytest.raises(ValueError, match=message):
        LayerKMeansAttribution(net, LAYERS, weighting=weighting).attribute(images)


@pytest.mark.parametrize("depth", [3, -4, "stage9", 1.0], ids=str)
def test_depth_that_is_no_layer_is_refused(net, images, depth):
    with pytest.raises(ValueError, match=r"depth=.* is not one of the 3 layers \['stage1'"):
        LayerKMeansAttribution(net, LAYERS).attribute(images, depth=depth)


@pytest.mark.parametrize("n_clusters", [0, -1])
def test_number_of_clusters_must_be_positive(net, images, n_clusters):
    with pytest.raises(ValueError, match=f"n_clusters={n_clusters} should be between 1 and"):
        LayerKMeansAttribution(net, LAYERS, n_clusters=n_clusters).attribute(images)


@pytest.mark.parametrize("kind", [ClassifierPrototypes, LayerKMeansAttribution])
def test_contrast_and_delta_need_logit_units(kind, net, images):
    attribution = with_layer(kind, net, "stage3")
    with pytest.raises(ValueError, match="contrast needs units='logit'; alignments of two classes"):
        attribution.attribute(images, contrast=0, units="alignment")
    with pytest.raises(ValueError, match="return_convergence_delta needs units='logit'"):
        attribution.attribute(images, units="alignment", return_convergence_delta=True)


def test_contrast_out_of_range_names_the_contrast(kind, net, images, loader):
    attribution = with_layer(kind, net, "stage3")
    if kind is KMExAttribution:
        attribution.fit(loader, **QUICK)
    with pytest.raises(ValueError, match="contrast 7 is out of range for 3 logits"):
        attribution.attribute(images, contrast=7)


# ---------------------------------------------------------------- before the fit

NEEDS_FIT = {
    "predict": lambda a, x: a.predict(x),
    "classify": lambda a, x: a.classify(x),
    "save": lambda a, x: a.save("nowhere.safetensors"),
    "bank_": lambda a, x: a.bank_,
    "to_concepts": lambda a, x: a.to_concepts(x),
}


@pytest.mark.parametrize("use", NEEDS_FIT.values(), ids=NEEDS_FIT.keys())
def test_what_needs_prototypes_asks_for_a_fit(fit_kind, net, images, use):
    message = rf"this {fit_kind.__name__} is not fitted.*call fit\(loader\) first, or load\("
    with pytest.raises(NotFittedError, match=message):
        use(unfitted(fit_kind, net), images)


@pytest.mark.parametrize("use", ["attribute", "similarity"])
def test_kmex_asks_for_a_fit(net, images, use):
    with pytest.raises(NotFittedError, match=r"call fit\(loader\) first"):
        getattr(KMExAttribution(net), use)(images)


def test_kmex_prototypes_ask_for_a_fit(net):
    with pytest.raises(NotFittedError, match=r"call fit\(loader\) first"):
        _ = KMExAttribution(net).prototypes


def test_restriction_asks_for_a_fit(net, images):
    with pytest.raises(
        NotFittedError, match=r"restrict needs prototypes; call fit\(loader\) first"
    ):
        LayerKMeansAttribution(net, LAYERS).attribute(images, restrict="predicted")


# ---------------------------------------------------------------- the fit


def test_fit_raises_when_fewer_vectors_than_prototypes(fit_kind, net, loader):
    # four images a class: 4 embeddings, or 4 * 16 pixels of the deepest layer
    n_prototypes = 5 if fit_kind is KMExAttribution else 65
    count = n_prototypes - 1
    message = f"fit saw {count} feature vectors of class 0, fewer than n_prototypes={n_prototypes}"
    with pytest.raises(ValueError, match=message):
        unfitted(fit_kind, net, n_prototypes=n_prototypes).fit(loader, **QUICK)


@pytest.mark.parametrize("n_prototypes", [0, -2])
def test_fit_raises_without_prototypes_to_find(fit_kind, net, loader, n_prototypes):
    with pytest.raises(ValueError, match=rf"{n_prototypes}\b"):
        unfitted(fit_kind, net, n_prototypes=n_prototypes).fit(loader, **QUICK)


def test_fit_raises_when_a_class_has_no_prototype_count(fit_kind, net, loader):
    attribution = unfitted(fit_kind, net, n_prototypes={0: 1, 2: 1})
    with pytest.raises(ValueError, match=r"n_prototypes has no entry for class 1; it has \[0, 2\]"):
        attribution.fit(loader, **QUICK)


def test_fit_raises_when_a_wanted_class_has_no_samples(fit_kind, net, images):
    message = r"1 of 2 classes without samples \(the first: \[2\]\)"
    with pytest.raises(ValueError, match=message):
        unfitted(fit_kind, net).fit([(images, torch.arange(12) % 2)], classes=[1, 2], **QUICK)


@pytest.mark.parametrize(
    ("c", "message"),
    [
        (3, "classes holds 3, out of range for 3 logits"),
        (-1, r"classes\[1\]=-1 should be between 0"),
    ],
    ids=str,
)
def test_fit_raises_when_classes_are_out_of_range(fit_kind, net, loader, c, message):
    with pytest.raises(ValueError, match=message):
        unfitted(fit_kind, net).fit(loader, classes=[0, c], **QUICK)


@pytest.mark.parametrize("loader", ["bare", "one-tuple", "data-loader"])
def test_fit_raises_when_the_loader_has_no_labels(fit_kind, net, images, loader):
    loaders = {
        "bare": [images],
        "one-tuple": [(images,)],
        "data-loader": DataLoader(TensorDataset(images), batch_size=6),
    }
    message = "the loader yields no labels, but labels='target' needs them; yield .*'predicted'"
    with pytest.raises(ValueError, match=message):
        unfitted(fit_kind, net).fit(loaders[loader], **QUICK)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda y: y.float(), r"integers \(12,\) or multi-hot \(12, 3\); got torch\.float32"),
        (lambda y: y[:5], r"got torch\.int64 of shape \(5,\)"),
        (lambda y: nn.functional.one_hot(y, 4), r"multi-hot labels must .* shape \(12, 3\); got"),
        (lambda y: 2 * nn.functional.one_hot(y, 3), "with values 0 to 2"),
    ],
    ids=["float", "too-few", "too-wide", "not-binary"],
)
def test_fit_raises_when_labels_are_malformed(fit_kind, net, images, labels, spoil, message):
    with pytest.raises(ValueError, match=message):
        unfitted(fit_kind, net).fit([(images, spoil(labels))], **QUICK)


def test_kmex_fit_is_class_wise(net, loader):
    with pytest.raises(ValueError, match="labels=None is unknown; choose one of"):
        KMExAttribution(net).fit(loader, labels=None)


@pytest.mark.parametrize("what", ["tensor", "dataset", "number"])
def test_fit_raises_when_it_gets_no_loader(fit_kind, net, images, labels, what):
    given = {"tensor": images, "dataset": TensorDataset(images, labels), "number": 5}[what]
    message = f"fit takes a DataLoader or an iterable of batches; got {type(given).__name__}. Wrap"
    with pytest.raises(TypeError, match=message):
        unfitted(fit_kind, net).fit(given)


# ---------------------------------------------------------------- a bank where it does not belong


def test_attribute_raises_at_the_other_side_of_the_layer(fit_kind, net, images, loader):
    layers = ["stage2", "stage3"] if fit_kind is LayerKMeansAttribution else "stage3"
    fitted = fit_kind(net, layers, n_prototypes=1).fit(loader, **QUICK)
    message = "fitted with attribute_to_layer_input=False; explain with the same, or fit again"
    with pytest.raises(ValueError, match=message):
        fitted.attribute(images, attribute_to_layer_input=True)


def test_kmex_raises_for_a_class_without_prototypes(net, images, loader):
    fitted = KMExAttribution(net, n_prototypes=1).fit(loader, classes=[0, 1], **QUICK)
    message = r"class 2 has no prototypes; the bank has classes \[0, 1\]\. Fit with images of it"
    with pytest.raises(ValueError, match=message):
        fitted.attribute(images, target=2)
    with pytest.raises(ValueError, match=message):
        fitted.attribute(images, target=1, contrast=2)


def test_restriction_raises_for_a_class_without_prototypes(net, images, loader):
    fitted = LayerKMeansAttribution(net, LAYERS, n_prototypes=1)
    fitted.fit(loader, classes=[0, 1], **QUICK)
    with pytest.raises(ValueError, match="class 2 has no prototypes"):
        fitted.attribute(images, target=2, restrict="predicted")


def test_kmex_raises_when_one_class_has_no_rival(net, images, loader):
    fitted = KMExAttribution(net, n_prototypes=1).fit(loader, classes=[1], **QUICK)
    message = "a margin needs prototypes of a second class, the bank has only class 1; fit more"
    with pytest.raises(ValueError, match=message):
        fitted.attribute(images, target=1)


def test_load_raises_for_other_weights(fit_kind, saved):
    message = "fitted on a model with other weights: fingerprint .* got .*fit again, or .*strict=F"
    with pytest.raises(ValueError, match=message):
        fit_kind.load(saved, make_net(seed=1))
    assert fit_kind.load(saved, make_net(seed=1), strict=False).is_fitted


def test_load_without_strict_still_refuses_other_shapes(fit_kind, saved, images):
    net = make_net()
    net.stage3 = nn.Sequential(nn.Conv2d(6, 10, 3, 2, 1), nn.ReLU())
    net.head = nn.Linear(10, 3)
    loaded = fit_kind.load(saved, net, strict=False)
    with pytest.raises(ValueError, match=r"prototypes have .* channels.* fit again"):
        loaded.attribute(images)


def test_load_raises_for_a_model_without_the_layer(net, loader, tmp_path):
    path = tmp_path / "bank.safetensors"
    LayerKMeansAttribution(net, LAYERS, n_prototypes=1).fit(loader, **QUICK).save(path)
    with pytest.raises(ValueError, match="layer 'stage1' is not in the model"):
        LayerKMeansAttribution.load(path, nn.Sequential(nn.Conv2d(1, 1, 1)))


def test_load_raises_for_a_bank_of_the_other_method(fit_kind, saved, net):
    other = KMExAttribution if fit_kind is LayerKMeansAttribution else LayerKMeansAttribution
    message = f"fitted by {fit_kind.__name__}, not by {other.__name__}; use {fit_kind.__name__}.lo"
    with pytest.raises(ValueError, match=message):
        other.load(saved, net)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99], ids=str)
def test_load_raises_for_a_truncated_file(fit_kind, saved, net, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        ValueError, match=r"is truncated or no safetensors file .* save the bank ag"
    ):
        fit_kind.load(saved, net)


def test_load_raises_for_a_foreign_file(fit_kind, net, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a bank at all, but long enough to look like one\n" * 10)
    with pytest.raises(ValueError, match=r"notes\.txt is truncated or no safetensors file"):
        fit_kind.load(path, net)


def test_load_raises_for_a_pickle_without_running_it(fit_kind, net, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(net, path)
    with pytest.raises(ValueError, match=r"model\.pt is truncated or no safetensors file"):
        fit_kind.load(path, net)


def test_load_raises_for_safetensors_of_something_else(fit_kind, net, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(net.state_dict(), path)
    with pytest.raises(ValueError, match="is a safetensors file, but no prototype bank"):
        fit_kind.load(path, net)


def test_load_raises_when_there_is_no_file(fit_kind, net, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no bank at .*nowhere; write one with save\(\)"):
        fit_kind.load(tmp_path / "nowhere", net)


def rewritten(path: Path, change) -> None:
    """Change the header and tensors of a bank's file."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["captum_kmex"])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    header.pop("sha256")
    change(header, tensors)
    write_tensors(path, tensors, "captum_kmex", header)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, t: h.update(schema_version=99), "has schema version 99, this release reads 1"),
        (lambda h, t: h.pop("layers"), "lacks 'layers'; the file is damaged"),
        (lambda h, t: t.pop("0.counts"), "lacks '0.counts'; the file is damaged"),
        (lambda h, t: t.update({"0.counts": t["0.counts"][:-1].clone()}), "the file is damaged"),
        (lambda h, t: h.update(fingerprint={"weights": "x"}), "the file is damaged"),
        (lambda h, t: h.update(n_classes="three"), "the file is damaged"),
        (lambda h, t: h.update(input_range=[0.0]), "the file is damaged"),
    ],
    ids=["schema", "header", "tensor", "shape", "fingerprint", "value", "range"],
)
def test_load_raises_for_a_damaged_bank(fit_kind, saved, net, change, message):
    rewritten(saved, change)
    with pytest.raises(ValueError, match=message):
        fit_kind.load(saved, net)


def test_load_raises_when_the_header_is_no_json(fit_kind, saved, net):
    with safe_open(saved, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, saved, {"captum_kmex": "{"})
    with pytest.raises(ValueError, match=r"has a damaged header .* save the bank again"):
        fit_kind.load(saved, net)


def test_save_into_a_missing_folder_raises(fit_one, tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        fit_one.save(tmp_path / "missing" / "bank.safetensors")
