from __future__ import annotations

import timm
import torch
from captum.attr._utils.custom_modules import Addition_Module
from torch import Tensor, nn

from benchmarks.methods.systems.plain_modules import (
    activation_names,
    last_module,
    with_plain_modules,
)
from benchmarks.methods.systems.tiny_resnet_task import tiny_resnet_task


class Doubled(nn.Module):
    """Calls one module twice and adds in two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x)) + x
        x += self.relu(self.conv(x))
        return x + 1


def _calls(model: nn.Module, x: Tensor) -> list[nn.Module]:
    called: list[nn.Module] = []
    for module in model.modules():
        if module is not model and not any(module.children()):
            module.register_forward_hook(lambda m, _i, _o: called.append(m))
    model(x)
    return called


def test_twin_gives_the_same_logits() -> None:
    task = tiny_resnet_task()
    images = task.sample("test", 4).inputs
    twin = with_plain_modules(task.model, Addition_Module)
    assert torch.equal(twin(images), task.model(images))


def test_twin_of_fused_normalisations_gives_the_same_logits() -> None:
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=3).eval()
    images = torch.randn(2, 3, 32, 32)
    twin = with_plain_modules(model, Addition_Module)
    torch.testing.assert_close(twin(images), model(images))
    assert all(type(m) is nn.BatchNorm2d for m in twin.modules() if isinstance(m, nn.BatchNorm2d))


def test_twin_calls_each_module_once_and_none_in_place() -> None:
    model = Doubled().eval()
    twin = with_plain_modules(model, Addition_Module)
    x = torch.randn(1, 1, 3, 3)
    torch.testing.assert_close(twin(x), model(x.clone()))
    called = _calls(twin, x)
    kinds = [type(m) for m in called]
    assert len(set(called)) == len(called)
    assert kinds == [nn.Conv2d, nn.ReLU, Addition_Module] * 2
    assert not any(m.inplace for m in called if isinstance(m, nn.ReLU))


def test_network_stays_as_it_was() -> None:
    model = Doubled()
    with_plain_modules(model, Addition_Module)
    assert model.training
    assert model.relu.inplace
    assert [name for name, _ in model.named_modules()] == ["", "conv", "relu"]


def test_last_module_of_a_residual_layer_is_its_sum() -> None:
    twin = with_plain_modules(tiny_resnet_task().model, Addition_Module)
    assert isinstance(last_module(twin, "layer3"), Addition_Module)
    assert last_module(twin, "fc") is twin.fc


def test_activation_names_lists_kinds() -> None:
    assert activation_names(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU6(), nn.ReLU())) == {
        "ReLU6",
        "ReLU",
    }
