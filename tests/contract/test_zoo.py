"""Every torchvision classification family and a few of timm, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import pytest
import timm
import torch
import torchvision.models as zoo
from nets import calibrate
from torch import Tensor, nn

from captum_kmex import (
    ClassifierPrototypes,
    HeadNotFoundError,
    KMExAttribution,
    LayerKMeansAttribution,
)

pytestmark = pytest.mark.zoo

N_CLASSES = 7


@dataclass(frozen=True)
class Family:
    """One architecture: how to build it, the grids of two of its stages, and its head."""

    name: str
    build: Callable[[], nn.Module]
    layers: tuple[str, str]
    grids: tuple[int, int]  # sides of the two layers' square grids
    head: str = "fc"
    rectified: bool = False
    refusal: str = ""
    size: int = 64


def torchvision_family(
    name: str, layers: tuple[str, str], grids: tuple[int, int] = (4, 2), **about: object
) -> Family:
    options = about.pop("options", {})
    build = partial(getattr(zoo, name), weights=None, num_classes=N_CLASSES, **options)
    return Family(str(about.pop("label", name)), build, layers, grids, **about)


def timm_family(
    name: str, layers: tuple[str, str], grids: tuple[int, int] = (4, 2), **about: object
) -> Family:
    options = about.pop("options", {})
    build = partial(timm.create_model, name, num_classes=N_CLASSES, **options)
    return Family(str(about.pop("label", f"timm-{name}")), build, layers, grids, **about)


RESNET = ("layer3", "layer4")
MBCONV = ("features.5", "features")
REGNET = ("trunk_output.block3", "trunk_output.block4")
SWIN = ("features.5", "features.7")
CHUNKED = {"init_weights": False}

AFFINE = [
    torchvision_family("resnet18", RESNET),
    torchvision_family("resnext50_32x4d", RESNET),
    torchvision_family("wide_resnet50_2", RESNET),
    torchvision_family("densenet121", ("features.denseblock3", "features"), head="classifier"),
    torchvision_family("efficientnet_b0", MBCONV, head="classifier.1"),
    torchvision_family("efficientnet_v2_s", MBCONV, head="classifier.1"),
    torchvision_family("mobilenet_v2", ("features.10", "features"), head="classifier.1"),
    torchvision_family("mnasnet0_5", ("layers.11", "layers"), head="classifier.1"),
    torchvision_family("shufflenet_v2_x0_5", ("stage3", "conv5")),
    torchvision_family("regnet_x_400mf", REGNET),
    torchvision_family("regnet_y_400mf", REGNET),
    torchvision_family(
        "googlenet",
        ("inception4e", "inception5b"),
        options={"init_weights": False, "aux_logits": False},
    ),
    torchvision_family(
        "googlenet",
        ("inception4e", "inception5b"),
        options={"init_weights": False, "aux_logits": True},
        label="googlenet-aux",
    ),
    torchvision_family("inception_v3", ("Mixed_6e", "Mixed_7c"), (6, 2), size=128, options=CHUNKED),
    torchvision_family(
        "squeezenet1_0", ("features.7", "features.12"), (7, 3), head="classifier.1", rectified=True
    ),
    torchvision_family(
        "squeezenet1_1", ("features.7", "features.12"), (7, 3), head="classifier.1", rectified=True
    ),
    torchvision_family("swin_t", SWIN, head="head"),
    torchvision_family("swin_v2_t", SWIN, head="head"),
    timm_family("tf_efficientnet_lite0", ("blocks.4", "bn2"), head="classifier"),
    timm_family("resnet18", RESNET),
    timm_family("densenet121", ("features.denseblock3", "features"), head="classifier"),
    timm_family(
        "swin_tiny_patch4_window7_224",
        ("layers.2", "layers.3"),
        head="head.fc",
        options={"img_size": 64},
    ),
]

MLP = "further layers stand between pooling and logits"
NORMALISATION = "a normalisation stands between pooling and the linear layer"
CLASS_TOKEN = "it reads a class token, not a pooled map"


def small_vit() -> nn.Module:
    model = zoo.VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        num_classes=N_CLASSES,
    )
    nn.init.normal_(model.heads.head.weight)  # torchvision starts it at zero
    return model


def small_maxvit() -> nn.Module:
    return zoo.MaxVit(
        input_size=(64, 64),
        stem_channels=8,
        partition_size=2,
        block_channels=[8, 16],
        block_layers=[1, 1],
        head_dim=4,
        stochastic_depth_prob=0.0,
        num_classes=N_CLASSES,
    )


VIT_LAYERS = ("encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1")

LINEARISED = [  # no fixed prototypes, and why; maps at once all the same
    torchvision_family("vgg11", ("features.10", "features"), (8, 2), refusal=MLP),
    torchvision_family("vgg11_bn", ("features.14", "features"), (8, 2), refusal=MLP),
    torchvision_family("alexnet", ("features.5", "features"), (5, 2), refusal=MLP, size=96),
    torchvision_family("mobilenet_v3_small", ("features.8", "features"), refusal=MLP),
    torchvision_family("convnext_tiny", ("features.5", "features"), refusal=NORMALISATION),
    Family("vit", small_vit, VIT_LAYERS, (4, 4), refusal=CLASS_TOKEN, size=32),
    Family("maxvit", small_maxvit, ("blocks.0", "blocks.1"), (16, 8), refusal=MLP),
    timm_family("mobilenetv3_small_050", ("blocks.3", "blocks.5"), refusal=MLP),
    timm_family("convnext_atto", ("stages.2", "stages.3"), refusal=NORMALISATION),
]
SURROGATES = [
    family for family in LINEARISED if family.name in {"mobilenet_v3_small", "convnext_tiny", "vit"}
]


@dataclass(frozen=True)
class Specimen:
    """A built model with images and the logits it gives them."""

    family: Family
    model: nn.Module
    images: Tensor
    logits: Tensor

    @property
    def scale(self) -> float:
        return float(self.logits.abs().max())

    @cached_property
    def prototypes(self) -> ClassifierPrototypes:
        """One for all tests, since the search for the head is dear."""
        return ClassifierPrototypes(self.model)

    @cached_property
    def clusters(self) -> LayerKMeansAttribution:
        return self.kmeans(n_clusters=3)

    def kmeans(self, **options: object) -> LayerKMeansAttribution:
        return LayerKMeansAttribution(self.model, self.family.layers, **options)


def collect(family: Family) -> Specimen:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = family.build().eval()
    images = torch.randn(4, 3, family.size, family.size, generator=generator)
    images[..., : family.size // 2] += 1  # halves of another colour, so that maps vary
    calibrate(model, images, generator)
    with torch.no_grad():
        logits = model(images[:2])
    return Specimen(family, model, images[:2].clone(), logits)


@pytest.fixture(scope="module", params=AFFINE, ids=lambda family: family.name)
def affine(request: pytest.FixtureRequest) -> Specimen:
    return collect(request.param)


@pytest.fixture(scope="module", params=LINEARISED, ids=lambda family: family.name)
def linearised(request: pytest.FixtureRequest) -> Specimen:
    return collect(request.param)


def check_segments(specimen: Specimen) -> None:
    for depth, side in enumerate(specimen.family.grids):
        segments = specimen.clusters.segment(specimen.images, depth=depth)
        assert segments.shape == (2, side, side)
        assert segments.min() >= 0
        assert segments.max() < 3


def test_logits_vary_between_images_and_classes(affine):
    assert affine.logits.std(0).mean() > 1e-3 * affine.scale
    assert affine.logits.std(1).mean() > 1e-3 * affine.scale


def test_prototypes_map_and_bias_add_up_to_every_logit(affine):
    bias = affine.model.get_submodule(affine.family.head).bias.detach()
    target = torch.arange(N_CLASSES + 1).remainder(N_CLASSES)
    images, logits = affine.images.repeat(4, 1, 1, 1), affine.logits.repeat(4, 1)
    maps = affine.prototypes.attribute(images, target=target)
    total = maps.sum((1, 2, 3)) + (0 if affine.family.rectified else bias[target])
    expected = logits.gather(1, target[:, None]).squeeze(1)
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-4 * affine.scale)


def test_prototypes_map_varies_over_a_grid(affine):
    maps = affine.prototypes.attribute(affine.images, target=1)
    side = affine.family.grids[-1]
    assert maps.shape == (2, 1, side, side)
    assert side > 1
    assert maps.std((2, 3)).min() > 1e-3 * maps.abs().max()


def test_prototypes_are_the_head_weights(affine):
    affine.prototypes.attribute(affine.images[:1])
    weight = affine.model.get_submodule(affine.family.head).weight.detach()
    assert torch.equal(affine.prototypes.prototypes, weight.flatten(1))


def test_segment_covers_both_grids_of_an_affine_family(affine):
    check_segments(affine)


def test_kmeans_map_is_complete_at_both_depths(affine):
    for depth, side in enumerate(affine.family.grids):
        maps, delta = affine.clusters.attribute(
            affine.images, depth=depth, return_convergence_delta=True
        )
        assert maps.shape == (2, 1, side, side)
        assert delta.abs().max() < 1e-4 * affine.scale


@pytest.mark.parametrize("name", ["swin_t", "swin_v2_t"])
def test_channels_last_layers_are_read_at_their_input(name):
    """The input of a patch merging is (N, H, W, D), and none of its own weights has length D."""
    specimen = collect(next(family for family in AFFINE if family.name == name))
    attribution = LayerKMeansAttribution(specimen.model, ["features.4", "features.6"], n_clusters=3)
    for depth, side in enumerate((8, 4)):
        segments = attribution.segment(specimen.images, attribute_to_layer_input=True, depth=depth)
        assert segments.shape == (2, side, side)


def test_channels_last_layer_without_weights_has_its_grid():
    specimen = collect(next(family for family in AFFINE if family.name == "swin_t"))
    attribution = LayerKMeansAttribution(specimen.model, ["features.3.1.mlp.4"])
    assert attribution.segment(specimen.images[:, :, :, :48]).shape == (2, 8, 6)


def test_logits_vary_between_classes_of_a_linearised_family(linearised):
    assert linearised.logits.std(1).mean() > 1e-3 * linearised.scale


def test_prototypes_refuse_with_the_reason(linearised):
    with pytest.raises(HeadNotFoundError, match=linearised.family.refusal):
        ClassifierPrototypes(linearised.model).attribute(linearised.images)


def test_segment_covers_both_grids_of_a_linearised_family(linearised):
    check_segments(linearised)


def test_linearised_map_is_complete_at_both_depths(linearised):
    for depth, side in enumerate(linearised.family.grids):
        maps, delta = linearised.clusters.attribute(
            linearised.images, depth=depth, return_convergence_delta=True
        )
        assert maps.shape == (2, 1, side, side)
        assert delta.abs().max() < 1e-4 * linearised.scale


def test_linearised_map_varies_and_says_what_it_leaves_over(linearised):
    found = linearised.clusters.explain(linearised.images, depth=0)
    assert found.head == "linearised"
    assert found.attribution.std((2, 3)).min() > 1e-3 * found.attribution.abs().max()
    if linearised.family.refusal == NORMALISATION:  # the scale held, these are affine
        assert found.not_linear.abs().max() < 1e-3 * linearised.scale


def test_kmex_fits_without_a_head(linearised):
    attribution = KMExAttribution(linearised.model, linearised.family.layers[-1], n_prototypes=1)
    with pytest.warns(UserWarning, match="kept fewer than"):
        attribution.fit([(linearised.images, torch.tensor([0, 1]))], classes=[0, 1])
    maps, delta = attribution.attribute(
        linearised.images, target=[0, 1], return_convergence_delta=True
    )
    assert torch.equal(attribution.predict(linearised.images), torch.tensor([0, 1]))
    assert delta.abs().max() < 1e-4 * maps.abs().sum((1, 2, 3)).max()


@pytest.mark.parametrize("family", SURROGATES, ids=lambda family: family.name)
def test_fitted_kmeans_reports_what_the_surrogate_misses(family):
    specimen = collect(family)
    generator = torch.Generator().manual_seed(1)
    others = torch.randn(8, 3, family.size, family.size, generator=generator)
    attribution = specimen.kmeans(n_prototypes=2)
    attribution.fit([others], labels=None, n_representatives=0)
    maps, delta = attribution.attribute(specimen.images, target=1, return_convergence_delta=True)
    surrogate = attribution.bank_.surrogate
    assert 0 < surrogate.r2 <= 1
    assert torch.isfinite(maps).all()
    total = maps.sum((1, 2, 3)) + surrogate.bias[1]
    assert delta.abs().min() > 0
    torch.testing.assert_close(delta, total - specimen.logits[:, 1])
