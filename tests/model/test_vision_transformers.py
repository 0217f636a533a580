"""Vision transformers: tokens stand where the model puts them, and maps add up to the logit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import SwinTransformer, VisionTransformer
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

from captum_kmex import ClassifierPrototypes, LayerKMeansAttribution, suggest_layers
from captum_kmex.exceptions import HeadNotFoundError
from captum_kmex.model.layout import LayoutClues

N_CLASSES = 5
SIZE, PATCH = (48, 80), 8
TINY = {"embed_dim": 24, "depth": 3, "num_heads": 2}


@dataclass(frozen=True)
class Case:
    """A tiny transformer, with the layers and the grid that are right for it."""

    build: Callable[[], nn.Module]
    layers: tuple[str, ...] = ("blocks.0", "norm")  # whose tokens are looked at
    cell: int = PATCH  # side of the last layer's cells, in pixels
    size: tuple[int, int] = SIZE
    head: str = "linearised"


def vit(name: str = "vit_tiny_patch16_224", **options: object) -> Callable[[], nn.Module]:
    options = {"img_size": SIZE, "patch_size": PATCH, **TINY, **options}
    return functools.partial(timm.create_model, name, num_classes=N_CLASSES, **options)


def swin(name: str) -> Callable[[], nn.Module]:
    stages = {"embed_dim": 24, "depths": (1, 1, 2), "num_heads": (2, 2, 4), "window_size": 4}
    return functools.partial(
        timm.create_model, name, num_classes=N_CLASSES, img_size=(64, 96), **stages
    )


def torchvision_vit() -> nn.Module:
    return VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=N_CLASSES)


def torchvision_swin(**options: object) -> nn.Module:
    return SwinTransformer(
        [4, 4], 24, [1, 1, 2], [2, 2, 4], [4, 4], num_classes=N_CLASSES, **options
    )


SWIN = {"cell": 16, "size": (64, 96), "head": "exact"}
CASES = {
    "class_token": Case(vit()),
    "average": Case(vit(global_pool="avg", class_token=False, fc_norm=True)),
    "average_before_norm": Case(
        vit(global_pool="avg", class_token=False, fc_norm=False), head="exact"
    ),
    "attention_pool": Case(vit(global_pool="map", class_token=False)),
    "registers": Case(vit(reg_tokens=4)),
    "twelve_registers": Case(vit(reg_tokens=12)),
    "any_size": Case(vit(dynamic_img_size=True, img_size=64)),
    "qk_norm": Case(vit(qk_norm=True)),
    "qk_norm_one_head": Case(vit(qk_norm=True, num_heads=1)),
    "deit": Case(vit("deit_tiny_patch16_224")),
    "deit_distilled": Case(vit("deit_tiny_distilled_patch16_224")),
    "deit3": Case(vit("deit3_small_patch16_224")),
    "beit": Case(vit("beit_base_patch16_224")),
    "beit2": Case(vit("beitv2_base_patch16_224")),
    "eva": Case(vit("eva02_tiny_patch14_224")),
    "eva_class_token": Case(vit("eva_giant_patch14_224")),
    "dinov2": Case(vit("vit_small_patch14_dinov2")),
    "dinov2_registers": Case(vit("vit_small_patch14_reg4_dinov2")),
    "dinov3": Case(vit("vit_small_patch16_dinov3"), head="exact"),
    "patches_without_convolution": Case(vit("naflexvit_base_patch16_gap")),
    "swin": Case(swin("swin_tiny_patch4_window7_224"), ("layers.0", "norm"), **SWIN),
    "swin2": Case(swin("swinv2_tiny_window8_256"), ("layers.0", "norm"), **SWIN),
    "torchvision_vit": Case(
        torchvision_vit, ("encoder.layers.encoder_layer_0", "encoder"), size=(32, 32)
    ),
    "torchvision_swin": Case(torchvision_swin, ("features.1", "permute"), **SWIN),
    "torchvision_swin2": Case(
        functools.partial(
            torchvision_swin, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2
        ),
        ("features.1", "permute"),
        **SWIN,
    ),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def built(case: Case) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = case.build()
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                nn.init.normal_(parameter, std=0.02)  # heads that start at zero show nothing
    return model.eval()


def images(case: Case, count: int = 2) -> Tensor:
    return torch.randn(count, 3, *case.size, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.ChosenLayersWarning")
@cases
def test_map_and_what_is_left_over_are_the_logit(case):
    model, x = built(case), images(case)
    found = LayerKMeansAttribution(model, n_clusters=4).explain(x, 1)
    assert found.head == case.head
    assert found.delta.abs().max() < 1e-5
    with torch.no_grad():
        expected = model(x)[:, 1]
    torch.testing.assert_close(found.output, expected)
    assert found.attribution.std() > 0


@cases
def test_each_token_stands_where_its_pixels_are(case):
    model, x = built(case), images(case, 1)
    attribution = LayerKMeansAttribution(model, list(case.layers), n_clusters=4)
    assert case.layers[-1] in suggest_layers(model, x)
    for row, column in ((0, 0), (1, 3), (case.size[0] // case.cell - 1, 1)):
        other = x.clone()
        place = (
            slice(row * case.cell, (row + 1) * case.cell),
            slice(column * case.cell, (column + 1) * case.cell),
        )
        other[(0, slice(None), *place)] += 3 * torch.randn(
            3, case.cell, case.cell, generator=torch.Generator().manual_seed(2)
        )
        maps = attribution.read(torch.cat([x, other])).reading.blocks[-1]
        assert maps.shape[2:] == (case.size[0] // case.cell, case.size[1] // case.cell)
        change = (maps[1] - maps[0]).norm(dim=0)
        assert divmod(int(change.argmax()), change.shape[1]) == (row, column)


def test_evidence_of_a_pooled_transformer_is_its_heads():
    case = CASES["average_before_norm"]
    model, x = built(case), images(case)
    maps = ClassifierPrototypes(model).attribute(x, 2)
    tokens = model.forward_features(x).detach()
    evidence = tokens @ model.head.weight[2].detach() / tokens.shape[1]
    torch.testing.assert_close(maps[:, 0].flatten(1), evidence)


def test_class_token_has_no_fixed_prototypes():
    case = CASES["registers"]
    with pytest.raises(HeadNotFoundError, match=r"class token|no map"):
        ClassifierPrototypes(built(case)).attribute(images(case))


def test_queries_of_heads_are_no_map():
    clues = LayoutClues(4)
    clues.take(nn.Linear(8, 24), None, torch.zeros(2, 60, 24))
    assert clues.is_of_heads(torch.zeros(2, 2, 60, 4))
    assert not clues.is_of_heads(torch.zeros(2, 6, 10, 24))


def test_patches_cut_by_a_linear_layer_tell_the_grid():
    clues = LayoutClues(4)
    tokens = torch.zeros(2, 60, 24)
    clues.take(nn.Linear(192, 24), None, tokens)
    assert clues.token_grid(tokens) is None  # what the image is, nobody said
    clues.see(torch.zeros(2, 3, 48, 80))
    clues.take(nn.Linear(192, 24), None, tokens)
    assert clues.token_grid(tokens) == (6, 10)
    assert clues.token_grid(torch.zeros(2, 64, 24)) == (6, 10)


class Shuffled(nn.Module):
    """Tokens in the order of windows, as hierarchical transformers have them."""

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.order]


class Reordering(nn.Module):
    """A transformer that puts its tokens into another order, and back into a map at its end."""

    def __init__(self, order: Tensor | None) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.mixed = Shuffled(torch.arange(16) if order is None else order)
        self.in_windows = nn.Linear(8, 8)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.back = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mixed(self.embed(x).flatten(2).transpose(1, 2))
        windows = self.in_windows(mixed.unflatten(1, (4, 4)))  # is no map
        tokens = self.block(windows.flatten(1, 2))
        grid = torch.empty_like(tokens)
        grid[:, self.mixed.order] = tokens
        maps = self.back(grid.transpose(1, 2).unflatten(2, (4, 4)))
        return self.head(maps.mean((2, 3)))


@pytest.mark.parametrize("order", [None, torch.arange(16).view(4, 2, 2).transpose(0, 1).flatten()])
def test_reordered_tokens_have_no_grid(order):
    torch.manual_seed(0)
    model, x = Reordering(order).eval(), torch.rand(2, 3, 16, 16)
    assert LayerKMeansAttribution(model, ["embed", "back"], n_clusters=3).attribute(x).shape[2] == 4
    attribution = LayerKMeansAttribution(model, ["block", "back"], n_clusters=3)
    if order is None:
        assert attribution.attribute(x).shape == (2, 1, 4, 4)
        return
    with pytest.raises(ValueError, match="tokens that the model has put in another order"):
        attribution.attribute(x)
    assert "block" not in suggest_layers(model, x)
