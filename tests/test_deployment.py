"""Deployed modules answer as the attributions do: as modules, exported, and in ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision.models as zoo
from nets import LAYERS, SmallNet, make_net
from torch import Tensor, nn

from captum_kmex import (
    ClassifierPrototypes,
    HeadNotFoundError,
    KMExAttribution,
    LayerKMeansAttribution,
    NotFittedError,
    TargetError,
)
from captum_kmex.demo import SmallResNet, load_efficientnet_lite0, load_photographs
from captum_kmex.deployment import ExplainedModel

pytestmark = [
    pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

QUICK = {"n_init": 1, "n_representatives": 0}
BATCH = {"images": {0: torch.export.Dim("batch")}}


def random_images(count: int, channels: int = 1, size: int = 16, seed: int = 3) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def fitted(model: nn.Module, layers=LAYERS, *, fit=None, **options) -> LayerKMeansAttribution:
    batch = random_images(12, seed=2), torch.arange(12) % 3
    attr = LayerKMeansAttribution(model, layers, **{"n_prototypes": 2} | options)
    return attr.fit([batch], **QUICK | (fit or {}))


def session_of(module: ExplainedModel, images: Tensor, folder: Path):
    torch.onnx.export(
        module,
        (images,),
        folder / "model.onnx",
        dynamo=True,
        input_names=["images"],
        output_names=module.output_names,
        dynamic_shapes=BATCH,
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(folder / "model.onnx", options)


def answers(session, images: Tensor) -> dict[str, Tensor]:
    names = [output.name for output in session.get_outputs()]
    found = session.run(None, {"images": images.numpy()})
    return {name: torch.from_numpy(array) for name, array in zip(names, found, strict=True)}


def clear_pixels(attr: LayerKMeansAttribution, images: Tensor, depth: int | str) -> Tensor:
    """Return where the two nearest prototypes differ by more than rounding, by brute force."""
    features: dict[str, Tensor] = {}
    layers = attr.bank_.layers
    handles = [
        attr.model.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: features.update({name: output.detach().clone()})
        )
        for name in layers
    ]
    with torch.no_grad():
        attr.model(images)
    for handle in handles:
        handle.remove()
    start = layers.index(depth) if isinstance(depth, str) else depth % len(layers)
    blocks = [features[name].double() for name in layers[start:]]
    size = blocks[0].shape[2:]
    rows = torch.cat(
        [
            weight * nn.functional.normalize(nn.functional.interpolate(b, size, mode="bilinear"))
            for b, weight in zip(blocks, attr.bank_.weights[start:], strict=True)
        ],
        1,
    )
    centroids = attr.bank_.codebooks[start].centroids.double()
    distances = torch.cdist(rows.flatten(2).transpose(1, 2), centroids)
    nearest = distances.topk(2, largest=False).values
    return (nearest[..., 1] - nearest[..., 0] > 1e-5).view(len(images), *size)


def assert_as_explained(found, attr, images: Tensor, depth: int | str = 0, **options) -> None:
    result = attr.explain(images, depth=depth, **options)
    assert torch.equal(found["target"], result.target)
    for name in ("logits", "bias", "class_scores"):
        torch.testing.assert_close(found[name], getattr(result, name), rtol=1e-4, atol=1e-5)
    clear = clear_pixels(attr, images, depth)
    assert clear.float().mean() > 0.95
    assert torch.equal(found["segments"][clear], result.segments[clear])
    top = result.class_scores.topk(2).values
    sure = top[:, 0] - top[:, 1] > 1e-4
    assert torch.equal(found["prediction"][sure], result.prediction[sure])
    whole = clear.flatten(1).all(1)  # a pixel at a tie may change the means of two segments
    scale = float(result.attribution.abs().max())
    torch.testing.assert_close(
        found["attribution"][whole], result.attribution[whole], rtol=0, atol=1e-5 * scale
    )
    output = found["logits"].gather(1, found["target"][:, None])[:, 0]
    left = found["attribution"].sum((1, 2, 3)) + found["bias"] - output
    assert left.abs().max() < 1e-5 * max(1.0, float(output.abs().max()))


OPTIONS = {
    "defaults": {},
    "weights": {"weighting": (1.0, 2.0, 0.5)},
    "nave": {"weighting": "nave"},
    "average-top": {"average_top": True},
    "share-vote": {"vote": "share"},
    "uneven": {"n_prototypes": {0: 1, 1: 3, 2: 2}},
    "class-agnostic": {"n_prototypes": 5, "fit": {"labels": None}},
    "some-classes": {"fit": {"classes": (2, 0)}},
    "layer-input": {"fit": {"attribute_to_layer_input": True}},
    "one-layer": {"layers": ["stage3"]},
    "not-the-last": {"layers": ["stage1", "stage2"]},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_module_answers_as_explain(net, options):
    attr = fitted(net, **options)
    found = attr.as_module(random_images(3))(random_images(5, seed=4))
    at_input = attr.bank_.at_input
    if at_input:
        result = attr.explain(random_images(5, seed=4), attribute_to_layer_input=True)
        assert torch.equal(found["segments"], result.segments)
        torch.testing.assert_close(found["attribution"], result.attribution)
        return
    assert_as_explained(found, attr, random_images(5, seed=4))


@pytest.mark.parametrize("depth", [0, 1, -1, "stage2"])
def test_module_answers_as_explain_at_depth(net, depth):
    attr = fitted(net)
    found = attr.as_module(random_images(3), depth=depth)(random_images(5, seed=4))
    assert_as_explained(found, attr, random_images(5, seed=4), depth)


@pytest.mark.parametrize("target", [1, -1])
def test_module_explains_fixed_target(net, target):
    attr = fitted(net)
    found = attr.as_module(random_images(3), target)(random_images(5, seed=4))
    assert_as_explained(found, attr, random_images(5, seed=4), target=target)


def test_module_of_classifier_prototypes_returns_its_map(net):
    attr = ClassifierPrototypes(net)
    module, x = attr.as_module(random_images(3)), random_images(5, seed=4)
    found = module(x)
    assert list(found) == module.output_names
    torch.testing.assert_close(found["attribution"], attr.attribute(x))
    torch.testing.assert_close(
        found["attribution"].sum((1, 2, 3)) + found["bias"], net(x).detach().amax(1)
    )


def test_module_of_classifier_prototypes_takes_own_head(net):
    own = nn.Linear(6, 3)
    attr = ClassifierPrototypes(net, "stage2", own)
    found = attr.as_module(random_images(3), 2)(random_images(5, seed=4))
    torch.testing.assert_close(found["attribution"], attr.attribute(random_images(5, seed=4), 2))


def test_module_uses_surrogate_where_there_is_no_head():
    class Headless(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).tanh()

    model = Headless().eval()
    attr = fitted(model)
    x = random_images(5, seed=4)
    torch.testing.assert_close(
        attr.as_module(random_images(3))(x)["attribution"], attr.attribute(x)
    )
    with pytest.raises(HeadNotFoundError):
        ClassifierPrototypes(model).as_module(random_images(3))


@pytest.mark.parametrize("layer", [None, "stage2"])
@pytest.mark.parametrize("target", [None, 2])
def test_module_of_kmex_answers_as_attribute_and_classify(net, layer, target):
    attr = KMExAttribution(net, layer, n_prototypes={0: 1, 1: 3, 2: 2})
    attr.fit([(random_images(12, seed=2), torch.arange(12) % 3)], **QUICK)
    module, x = attr.as_module(random_images(3), target), random_images(5, seed=4)
    found, verdict = module(x), attr.classify(x)
    assert list(found) == module.output_names
    torch.testing.assert_close(found["attribution"], attr.attribute(x, target))
    torch.testing.assert_close(found["class_scores"], verdict.scores)
    assert torch.equal(found["prediction"], verdict.prediction)


def test_module_of_kmex_knows_no_class_that_was_not_fitted(net):
    attr = KMExAttribution(net, n_prototypes=2)
    batch = random_images(12, seed=2), torch.arange(12) % 3
    attr.fit([batch], classes=(2, 0), **QUICK)
    x = random_images(5, seed=4)
    found, verdict = attr.as_module(x[:2], 0)(x), attr.classify(x)
    torch.testing.assert_close(found["class_scores"], verdict.scores)
    torch.testing.assert_close(found["attribution"], attr.attribute(x, 0))
    with pytest.raises(ValueError, match="class 1 has no prototypes"):
        attr.as_module(x, 1)
    attr.fit([batch], classes=(2,), **QUICK)
    with pytest.raises(ValueError, match="prototypes of two classes"):
        attr.as_module(x, 2)


@pytest.mark.slow
def test_onnx_of_kmex_answers_as_classify(tmp_path, net):
    attr = KMExAttribution(net, n_prototypes=2)
    attr.fit([(random_images(12, seed=2), torch.arange(12) % 3)], **QUICK)
    x = random_images(5, seed=4)
    found = answers(session_of(attr.as_module(x[:2]), x[:2], tmp_path), x)
    torch.testing.assert_close(found["attribution"], attr.attribute(x))
    torch.testing.assert_close(found["class_scores"], attr.classify(x).scores)


def test_module_is_a_frozen_copy(net):
    attr, x = fitted(net), random_images(3)
    module = attr.as_module(x)
    before = module(x)
    with torch.no_grad():
        net.head.weight.add_(1)
    after = module.train()(x)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not any(m._forward_hooks for m in [*module.modules(), *net.modules()])


def test_module_follows_dtype_of_double_model(net):
    net.double()
    x = random_images(12, seed=2).double()
    attr = LayerKMeansAttribution(net, LAYERS, n_prototypes=2)
    attr.fit([(x, torch.arange(12) % 3)], **QUICK)
    found = attr.as_module(x[:2])(x)
    assert found["attribution"].dtype == torch.float64
    torch.testing.assert_close(found["attribution"], attr.attribute(x))


def test_module_of_prepared_attribution_gives_the_same_up_to_rounding():
    torch.manual_seed(0)
    model = SmallResNet(3).eval()
    attr = LayerKMeansAttribution(model, ["layer3", "layer4"], n_prototypes=2)
    attr.fit([(random_images(12, size=28), torch.arange(12) % 3)], **QUICK)
    plain = attr.as_module(random_images(2, size=28))
    prepared = attr.prepare().as_module(random_images(2, size=28))
    x = random_images(4, size=28, seed=4)
    torch.testing.assert_close(prepared(x)["logits"], plain(x)["logits"], rtol=1e-3, atol=1e-4)
    norms = [m for m in prepared.modules() if type(m) is nn.BatchNorm2d]
    assert not norms


def test_as_module_raises_without_prototypes(net):
    with pytest.raises(NotFittedError, match="as_module needs prototypes"):
        LayerKMeansAttribution(net, LAYERS).as_module(random_images(2))


def test_as_module_raises_for_bad_options(net):
    attr, x = fitted(net), random_images(2)
    with pytest.raises(TargetError, match="Make a module for each class"):
        attr.as_module(x, [0, 1])
    with pytest.raises(TargetError, match="out of range"):
        attr.as_module(x, 3)
    with pytest.raises(ValueError, match="depth='stage9' is not one of"):
        attr.as_module(x, depth="stage9")
    with pytest.raises(ValueError, match="images \\(N, C, H, W\\)"):
        attr.as_module(x[0])


@pytest.mark.slow
def test_onnx_answers_as_explain_at_any_batch_size(tmp_path):
    attr = fitted(make_net(), vote="share", average_top=True)
    session = session_of(attr.as_module(random_images(2)), random_images(2), tmp_path)
    for count in (1, 7):
        x = random_images(count, seed=count)
        assert_as_explained(answers(session, x), attr, x)


@pytest.mark.slow
def test_onnx_of_classifier_prototypes_returns_its_map(tmp_path, net):
    attr, x = ClassifierPrototypes(net), random_images(5, seed=4)
    session = session_of(attr.as_module(x), x, tmp_path)
    torch.testing.assert_close(answers(session, x[:3])["attribution"], attr.attribute(x[:3]))


@pytest.mark.slow
def test_saved_program_runs_without_the_package(tmp_path, net):
    attr, x = fitted(net), random_images(5, seed=4)
    program = torch.export.export(attr.as_module(x[:2]), (x[:2],), dynamic_shapes=BATCH)
    torch.export.save(program, tmp_path / "model.pt2")
    np.save(tmp_path / "images.npy", x.numpy())
    code = """
import sys
sys.modules["captum_kmex"] = sys.modules["captum"] = None
import numpy, torch
found = torch.export.load("model.pt2").module()(torch.from_numpy(numpy.load("images.npy")))
numpy.savez("found.npz", **{name: tensor.numpy() for name, tensor in found.items()})
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    found = np.load(tmp_path / "found.npz")
    assert_as_explained({name: torch.from_numpy(found[name]) for name in found}, attr, x)


@pytest.mark.slow
def test_export_leaves_nothing_of_its_trace_behind(net):
    attr, x = fitted(net), random_images(3, size=20)  # of a size that nothing is kept for
    module = attr.as_module(x)
    program = torch.export.export(module, (x[:2],), dynamic_shapes=BATCH)
    expected, found = module(x), program.module()(x)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def small_densenet(num_classes: int) -> nn.Module:
    """DenseNet121 with two layers in a block: the same modules, an eighth of the graph."""
    return zoo.DenseNet(32, (2, 2, 2, 2), num_classes=num_classes)


MODELS = {
    "resnet18": (zoo.resnet18, ["layer2", "layer3", "layer4"], 3),
    "mobilenet_v2": (zoo.mobilenet_v2, ["features.6", "features.13", "features.18"], 3),
    "densenet": (small_densenet, ["features.denseblock3", "features.denseblock4"], 3),
    "SmallResNet": (lambda num_classes: SmallResNet(num_classes), ["layer3", "layer4"], 1),
}


@pytest.mark.slow
@pytest.mark.zoo
@pytest.mark.parametrize(("build", "layers", "channels"), MODELS.values(), ids=MODELS)
def test_onnx_of_common_models_answers_as_explain(tmp_path, build, layers, channels):
    torch.manual_seed(0)
    model = build(num_classes=4).eval()
    attr = LayerKMeansAttribution(model, layers, n_prototypes=2)
    attr.fit([(random_images(12, channels, 64), torch.arange(12) % 4)], **QUICK)
    x = random_images(3, channels, 64, seed=5)
    session = session_of(attr.as_module(x[:2]), x[:2], tmp_path)
    assert_as_explained(answers(session, x), attr, x)


@pytest.mark.slow
def test_onnx_of_trained_model_explains_photographs(tmp_path):
    model, (_, _, photographs) = load_efficientnet_lite0(), load_photographs()
    attr = LayerKMeansAttribution(model, ["blocks.2", "blocks.4", "bn2"], n_prototypes=10)
    attr.fit([photographs[:4]], labels=None, **QUICK)
    session = session_of(attr.as_module(photographs[:2]), photographs[:2], tmp_path)
    assert_as_explained(answers(session, photographs), attr, photographs)
