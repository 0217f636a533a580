"""The first call looks for the head in the same pass, and hardly needs memory for it."""

from __future__ import annotations

import pytest
import torch
import torchvision
from nets import LAYERS, make_net
from torch import nn

from benchmarks.speed.live_memory import live_memory
from captum_kmex import ClassifierPrototypes, KMExAttribution, LayerKMeansAttribution
from captum_kmex.model.activations import trace
from captum_kmex.model.layer_suggestion import suggest_layers


@pytest.mark.slow
@pytest.mark.parametrize(("name", "batch"), [("resnet18", 1), ("mobilenet_v2", 3)])
def test_first_call_needs_at_most_1_3_times_the_memory_of_the_forward_pass(name, batch):
    model = getattr(torchvision.models, name)(num_classes=5).eval()
    x = torch.rand(batch, 3, 64, 64)
    attribution = ClassifierPrototypes(model)
    with torch.no_grad():
        forward = live_memory(lambda: model(x)).peak
        first = live_memory(lambda: attribution.attribute(x)).peak
        both = live_memory(lambda: model(x[:1].repeat(2, 1, 1, 1))).peak
        suggestion = live_memory(lambda: suggest_layers(model, x[:1])).peak
    assert first <= 1.3 * forward
    assert suggestion <= 1.1 * both  # two copies of the example


class Counting(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.net(x)


@pytest.mark.parametrize(
    "make",
    [
        ClassifierPrototypes,
        lambda net: LayerKMeansAttribution(net, [f"net.{name}" for name in LAYERS]),
    ],
    ids=["prototypes", "layers"],
)
def test_first_call_runs_the_model_once(make, images):
    net = Counting(make_net())
    make(net).attribute(images)
    assert net.calls == 1


def test_a_map_that_the_model_writes_to_is_read_again(images):
    class Overwriting(nn.Module):
        """Its tap is changed in place by a function after it was returned."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.conv(x)
            pooled = h.mean((2, 3))
            h.zero_()
            return self.fc(pooled)

    net = Counting(Overwriting().eval())
    _, delta = ClassifierPrototypes(net).attribute(images, return_convergence_delta=True)
    assert delta.abs().max() < 1e-5
    assert net.calls == 2


def test_finite_features_in_half_precision_are_not_refused():
    """A hundred images times a thousand logits of 3 sum to more than float16 holds."""
    net = make_net().half()
    with torch.no_grad():
        net.head.bias.fill_(3.0)
        wide = nn.Linear(8, 1000)
        wide.weight.zero_()
        wide.bias.fill_(3.0)
        net.head = wide.half()
    x = torch.rand(100, 1, 8, 8).half()
    assert trace(net, (x,), ["stage1"]).logits.shape == (100, 1000)
    assert len(KMExAttribution(net, "stage3").read(x).logits) == 100


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_values_that_are_not_finite_are_still_named(value):
    class Spoiled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = x.mean((2, 3)).repeat(1, 1000)
            z[0, 3], z[0, 4] = value, -value
            return z

    with pytest.raises(ValueError, match="logits hold NaN or Inf"):
        trace(Spoiled(), (torch.rand(2, 1, 4, 4),))
