from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from captum_kmex import LayerKMeansAttribution, suggest_layers
from captum_kmex.model.layer_suggestion import candidate_layers

THREE_GRIDS = [(28, 28), (14, 14), (7, 7)]
PHOTO = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))

# what the papers of these networks call their stages
STAGES = {
    "resnet34": ["layer2", "layer3", "layer4"],
    "mobilenet_v2": ["features.6", "features.13", "features.18"],
    "densenet121": ["features.denseblock2", "features.denseblock3", "features.norm5"],
    "vgg16": ["features.22", "features.29", "features.30"],
    "convnext_tiny": ["features.3", "features.5", "features.7"],
    "timm:tf_efficientnet_lite0": ["blocks.2", "blocks.4", "bn2"],
}
DEAR = {"vgg16", "convnext_tiny"}


def _network(name: str) -> nn.Module:
    if name.startswith("timm:"):
        return timm.create_model(name.removeprefix("timm:"), pretrained=False).eval()
    return torchvision.models.get_model(name, weights=None).eval()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.zoo) if name in DEAR else name for name in STAGES],
)
@pytest.mark.slow
def test_suggestion_is_the_end_of_the_last_three_grids(name):
    model = _network(name)
    found = [c for c in candidate_layers(model, PHOTO) if c.is_suggested]
    assert [c.name for c in found] == STAGES[name]
    assert [c.grid for c in found] == THREE_GRIDS
    outputs = {}
    for layer in STAGES[name]:
        module = model.get_submodule(layer)
        module.register_forward_hook(lambda m, _, out, n=layer: outputs.update({n: out.shape}))
    with torch.no_grad():
        model(PHOTO)
    for c in found:
        shape = outputs[c.name]
        assert sorted(shape[1:]) == sorted((c.width, *c.grid))


def test_suggestion_works_as_the_layers_of_an_attribution():
    model = torchvision.models.resnet18(num_classes=3).eval()
    x = PHOTO[..., :64, :96].repeat(2, 1, 1, 1)
    layers = suggest_layers(model, x)
    assert layers == ["layer2", "layer3", "layer4"]
    maps = LayerKMeansAttribution(model, layers).attribute(x)
    assert maps.shape == (2, 1, 8, 12)


def test_suggestion_leaves_out_grids_of_one_cell():
    model = torchvision.models.resnet18(num_classes=3).eval()
    assert suggest_layers(model, PHOTO[..., :32, :32]) == ["layer1", "layer2", "layer3"]


def test_suggestion_opens_wrappers():
    inner = torchvision.models.resnet18(num_classes=3).eval()

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = inner

        def forward(self, x):
            return self.net(x)

    found = suggest_layers(Wrapper().eval(), PHOTO[..., :64, :64])
    assert found == ["net.layer2", "net.layer3", "net.layer4"]
    assert suggest_layers(nn.DataParallel(inner), PHOTO[..., :64, :64], count=2) == [
        "layer3",
        "layer4",
    ]


def test_suggestion_of_a_transformer_is_its_one_grid():
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    model = torchvision.models.VisionTransformer(224, 16, **sizes, num_classes=2).eval()
    candidates = candidate_layers(model, PHOTO)
    assert {c.grid for c in candidates} == {(14, 14)}
    assert suggest_layers(model, PHOTO) == ["encoder"]


@pytest.mark.zoo
def test_suggestion_of_a_windowed_transformer_has_grids_of_the_image_only():
    model = torchvision.models.maxvit_t(num_classes=2).eval()
    assert [c.grid for c in candidate_layers(model, PHOTO) if c.is_suggested] == THREE_GRIDS


def test_suggestion_raises_without_any_grid():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    with pytest.raises(ValueError, match=r"no layer of the model Sequential has a grid.* 2x2"):
        suggest_layers(model, torch.rand(1, 3, 2, 2))
