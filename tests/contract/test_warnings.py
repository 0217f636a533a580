"""Every warning names the user's line, whatever stands between it and where it arises."""

from __future__ import annotations

import functools
import json
import re
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel
from captum.concept import TCAV
from nets import make_net
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import captum_kmex
from captum_kmex import (
    ClassifierPrototypes,
    KMExAttribution,
    LayerKMeansAttribution,
    exceptions,
)
from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.concepts import random_concept
from captum_kmex.exceptions import (
    ChosenLayersWarning,
    EmptyPrototypesWarning,
    FewPixelsWarning,
    FewRowsWarning,
    LayerCallWarning,
    LeftOutWeightsWarning,
    MissingGlyphWarning,
    PixelDepthWarning,
    RepresentativesWarning,
    SkippedImageWarning,
    SurrogateWarning,
    TrainModeWarning,
    UncheckedFileWarning,
)
from captum_kmex.loading.pictures import PictureSet, readable
from captum_kmex.loading.preprocessing import IMAGENET
from captum_kmex.loading.weights import set_weights
from captum_kmex.metrics.surrogate_scores import sensitivity_max, surrogate_scores

X, Y = torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
QUICK = {"n_init": 1, "n_representatives": 0}


class Twice(nn.Module):
    """Runs one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(1, 3)

    def forward(self, x):
        return self.head(self.layer(self.layer(x)).mean((2, 3)))


def training(**options):
    return LayerKMeansAttribution(make_net().train(), ["stage2", "stage3"], **options)


def kmex(k=1):
    return KMExAttribution(make_net(), "stage3", n_prototypes=k)


def kmeans(layer="stage3", **options):
    return LayerKMeansAttribution(make_net(), layer, **options)


def prepared():
    attribution = training().prepare()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attribution.attribute(X)
    return attribution


def fitted():
    attribution = LayerKMeansAttribution(make_net(), ["stage2"], n_prototypes=1)
    attribution.fit([(X, Y)], **QUICK).model.train()
    return attribution


def linearised():
    """Return an attribution with maps of a linearised tail, for which a fit gives a ridge head."""
    net = make_net()
    net.head = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    attribution = LayerKMeansAttribution(net.eval(), ["stage3"], n_prototypes=1)
    attribution.attribute(X)
    return attribution


def unsteady():
    """Yield fewer images the second time."""

    class Loader:
        sizes = iter((12, 6))

        def __iter__(self):
            yield X[: (size := next(self.sizes))], Y[:size]

    return Loader()


def predicting_one():
    net = make_net()
    with torch.no_grad():
        net.head.bias[0] = 1e3
    return KMExAttribution(net, "stage3", n_prototypes=1)


def damaged():
    """Return one good picture and one that is none; they lie in the working directory."""
    good, bad = Path("good.png"), Path("bad.png")
    Image.new("L", (8, 8)).save(good)
    bad.write_bytes(b"no picture")
    return PictureSet((good, bad), Path(), IMAGENET)


def deep():
    """Return a picture of 12 bits; it lies in the working directory."""
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 60).save("deep.png")
    return PictureSet((Path("deep.png"),), Path(), IMAGENET)


def with_criterion():
    """Return weights with those of a criterion beside them."""
    state = {f"net.{name}": tensor for name, tensor in make_net().state_dict().items()}
    return state | {"criterion.weight": torch.ones(3)}


def old_bank():
    """Save a bank as release 0.1.0 did, without a checksum."""
    bank, path = kmex().fit([(X, Y)], **QUICK).bank_, Path("old.safetensors")
    bank.save(path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["captum_kmex"]) | {"schema_version": 1}
    del header["sha256"]
    save_file(tensors, path, {"captum_kmex": json.dumps(header)})
    return path


# ruff: noqa: E501
# fmt: off
CALLS = {
    "attribute": (TrainModeWarning, training, lambda a: a.attribute(X)),
    "explain": (TrainModeWarning, training, lambda a: a.explain(X)),
    "segment": (TrainModeWarning, training, lambda a: a.segment(X)),
    "classify": (TrainModeWarning, fitted, lambda a: a.classify(X)),
    "predict": (TrainModeWarning, fitted, lambda a: a.predict(X)),
    "module": (TrainModeWarning, fitted, lambda a: a.as_module(X)),
    "fit": (TrainModeWarning, lambda: training(n_prototypes=1), lambda a: a.fit([(X, Y)], **QUICK)),
    "prepared": (TrainModeWarning, prepared, lambda a: a.attribute(X)),
    "layers": (ChosenLayersWarning, lambda: LayerKMeansAttribution(make_net()), lambda a: a.segment(X)),
    "ridge": (SurrogateWarning, linearised, lambda a: a.fit([(X, Y)], **QUICK)),
    "columns": (TrainModeWarning, lambda: ClassifierPrototypes(make_net().train()), lambda a: a.attribute(X)),
    "delta": (TrainModeWarning, training, lambda a: a.compute_convergence_delta(X, X)),
    "noise": (TrainModeWarning, lambda: NoiseTunnel(training()), lambda a: a.attribute(X, nt_samples=2, target=0)),
    "sensitivity": (TrainModeWarning, training, lambda a: sensitivity_max(a, X, n_perturb_samples=1)),
    "scores": (TrainModeWarning, fitted, lambda a: surrogate_scores(a, [(X, Y)])),
    "no_grad": (TrainModeWarning, training, lambda a: torch.no_grad()(a.attribute)(X)),
    "partial": (TrainModeWarning, training, lambda a: functools.partial(a.attribute, X)()),
    "twice": (LayerCallWarning, lambda: LayerKMeansAttribution(Twice().eval(), "layer"), lambda a: a.segment(X)),
    "few_rows": (FewRowsWarning, kmex, lambda a: a.fit([(X, Y)], **QUICK)),
    "unpredicted": (FewRowsWarning, predicting_one, lambda a: a.fit([X], labels="predicted", **QUICK)),
    "once": (RepresentativesWarning, kmex, lambda a: a.fit(iter([(X, Y)]), n_init=1, patch_search="exact")),
    "unsteady": (RepresentativesWarning, kmex, lambda a: a.fit(unsteady(), n_init=1, patch_search="exact")),
    "empty": (EmptyPrototypesWarning, lambda: kmex(2), lambda a: a.fit([(X * 0, Y)], **QUICK)),
    "pixels": (FewPixelsWarning, lambda: kmeans(n_clusters=17), lambda a: a.segment(X)),
    "unchecked": (UncheckedFileWarning, old_bank, lambda a: PrototypeBank.load(a)),
    "deep": (PixelDepthWarning, deep, lambda a: readable(a, strict=False, show_progress=False)),
    "beside": (LeftOutWeightsWarning, with_criterion, lambda a: set_weights(make_net(), a, Path("net.ckpt"))),
    "glyphs": (MissingGlyphWarning, lambda: ["\u0950\u0915"] * 3, lambda a: kmeans().explain(X).plot(0, class_names=a)),
    "skipped": (SkippedImageWarning, damaged, lambda a: readable(a, strict=False, show_progress=False)),
}
# fmt: on


def found(call, given) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(given)
    return caught


@pytest.mark.parametrize(("category", "make", "call"), CALLS.values(), ids=CALLS)
def test_warning_names_the_line_of_the_user(category, make, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    caught = [warning for warning in found(call, make()) if warning.category is category]
    assert caught
    place = (__file__, call.__code__.co_firstlineno)
    assert {(warning.filename, warning.lineno) for warning in caught} == {place}


def test_every_category_is_among_the_calls():
    known = {kind for kind in vars(exceptions).values() if isinstance(kind, type)}
    known = {kind for kind in known if issubclass(kind, UserWarning)}
    assert known == {category for category, _, _ in CALLS.values()}


def test_no_module_warns_by_counting_frames():
    package = Path(captum_kmex.__file__).parent
    found = [path.name for path in package.rglob("*.py") if "warnings.warn(" in path.read_text()]
    assert not found


def test_warning_shows_once_a_line_by_default():
    attribution = training()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            attribution.segment(X)
    assert len(caught) == 1


def test_warning_in_a_thread_of_its_own_names_some_line():
    attribution = training()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thread = threading.Thread(target=attribution.segment, args=(X,))
        thread.start()
        thread.join()
    assert [warning.category for warning in caught] == [TrainModeWarning]


# ---------------------------------------------------------------- settings that cannot be met


def test_fewer_pixels_than_clusters_warn_with_both_numbers():
    attribution = kmeans(["stage2", "stage3"], n_clusters=17)
    message = re.escape(
        "n_clusters=17 is more than the 16 pixels of the 4x4 grid of this depth; 16"
    )
    with pytest.warns(FewPixelsWarning, match=message):
        segments = attribution.segment(X, depth=-1)
    assert int(segments.max()) < 16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attribution.segment(X)
        kmeans(n_clusters=16).segment(X)


def test_duplicate_prototypes_warn_with_class_and_numbers():
    rows = X[:3].repeat(4, 1, 1, 1)  # three distinct images, four of each
    attribution = kmex(5)
    message = r"2 of 5 prototypes stand for no feature vector \(class 0: 2 of 5\)"
    with pytest.warns(EmptyPrototypesWarning, match=message):
        attribution.fit([(rows, torch.zeros(12, dtype=torch.int64))], classes=[0], **QUICK)
    assert sorted(attribution.bank_.codebooks[0].counts.tolist()) == [0, 0, 4, 4, 4]


@pytest.mark.parametrize("labels", ["predicted", None])
def test_duplicate_prototypes_of_pixels_warn(labels):
    attribution = kmeans(n_prototypes=5)
    torch.nn.init.zeros_(attribution.model.stage3[0].weight)
    torch.nn.init.ones_(attribution.model.stage3[0].bias)  # one distinct pixel
    with pytest.warns(EmptyPrototypesWarning, match=r"4 of 5 prototypes stand for no feature vec"):
        attribution.fit([X], labels=labels, **QUICK)


def test_enough_distinct_vectors_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", EmptyPrototypesWarning)
        warnings.simplefilter("ignore", FewRowsWarning)
        kmex(2).fit([(X, Y)], **QUICK)


# ---------------------------------------------------------------- one name for the layers


def test_layer_and_layers_are_one():
    net = make_net()
    attribution = LayerKMeansAttribution(net, ["stage2", "stage3"])
    attribution.layer = net.stage3
    assert attribution.layers is net.stage3
    expected = LayerKMeansAttribution(net, "stage3")
    assert torch.equal(attribution.attribute(X, 1), expected.attribute(X, 1))
    attribution.layers = ["stage1", "stage3"]
    assert attribution.layer == ["stage1", "stage3"]
    assert attribution.attribute(X, 1).shape == (12, 1, 16, 16)


def test_changed_layer_does_not_fit_the_bank():
    attribution = fitted()
    attribution.layer = attribution.model.stage3
    with pytest.raises(
        ValueError, match=r"fitted on layers \['stage2'\], this object has \['stage3"
    ):
        attribution.model.eval() and attribution.attribute(X)


@pytest.mark.filterwarnings("ignore")
def test_tcav_reads_the_layer_that_it_sets(tmp_path):
    """TCAV assigns ``layer`` and multiplies the map with vectors of that layer's one channel."""
    net = nn.Sequential(
        nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), nn.Conv2d(1, 8, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()  # fmt: skip
    attribution = LayerKMeansAttribution(net, "3", n_clusters=4)
    tcav = TCAV(net, ["1"], model_id="m", save_path=str(tmp_path), layer_attr_method=attribution)
    concepts = [random_concept(list(X), 6, concept_id=i, seed=i) for i in range(2)]
    scores = tcav.interpret(X, [concepts], target=1)
    seen = next(iter(scores.values()))["1"]
    assert attribution.layers is net[1]
    maps = LayerKMeansAttribution(net, "1", n_clusters=4).attribute(X, 1).flatten(1)
    weights = next(iter(tcav.cavs.values()))["1"].stats["weights"].float()
    expected = ((maps @ weights.T) > 0).float().mean(0)
    torch.testing.assert_close(seen["sign_count"].flatten(), expected)
