from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from captum.attr import GuidedBackprop, LayerAttribution
from captum.attr._utils.custom_modules import Addition_Module
from torch import Tensor, nn

from benchmarks.methods import captum_gradients, captum_perturbation
from benchmarks.methods.captum_gradients import LayerwiseRelevance
from benchmarks.methods.systems.plain_modules import with_plain_modules
from benchmarks.methods.systems.tiny_resnet_task import tiny_resnet_task
from benchmarks.quality.method import Method, UnavailableError
from benchmarks.quality.task import Task
from captum_kmex import ClassifierPrototypes

METHODS = captum_gradients.METHODS | captum_perturbation.METHODS


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_resnet_task(channels=3)


@pytest.fixture(scope="module")
def images(task: Task) -> Tensor:
    return task.sample("test", 4).inputs


TARGETS = torch.tensor([0, 2, 1, 1])


def _fitted(method: Method, task: Task) -> Method:
    method.fit(task, 0)
    return method


def _maps(name: str, task: Task, images: Tensor) -> Tensor:
    return _fitted(METHODS[name](), task).maps(images, TARGETS)


def _logits(task: Task, images: Tensor) -> Tensor:
    logits: Tensor = task.model(images)
    return logits.gather(1, TARGETS[:, None])[:, 0]


def _gradient(task: Task, images: Tensor) -> Tensor:
    x = images.clone().requires_grad_()
    return torch.autograd.grad(_logits(task, x).sum(), x)[0]


def test_grad_cam_is_the_map_of_the_classifier_prototypes(task: Task, images: Tensor) -> None:
    expected = ClassifierPrototypes(task.model).attribute(images, TARGETS)
    torch.testing.assert_close(_maps("Grad-CAM", task, images)[:, None], expected)


def test_saliency_adds_up_absolute_gradients(task: Task, images: Tensor) -> None:
    expected = _gradient(task, images).abs().sum(1)
    torch.testing.assert_close(_maps("Saliency", task, images), expected)


def test_input_x_gradient_adds_up_channels(task: Task, images: Tensor) -> None:
    expected = (_gradient(task, images) * images).sum(1)
    torch.testing.assert_close(_maps("Input x Gradient", task, images), expected)


@pytest.mark.parametrize(("name", "atol"), [("Integrated Gradients", 0.02), ("DeepLIFT", 1e-4)])
def test_map_sums_to_the_difference_of_logits_from_the_baseline(
    task: Task, images: Tensor, name: str, atol: float
) -> None:
    with torch.no_grad():
        expected = _logits(task, images) - _logits(task, torch.zeros_like(images))
    total = _maps(name, task, images).sum((1, 2))
    torch.testing.assert_close(total, expected, atol=atol, rtol=0)


def test_guided_grad_cam_multiplies_guided_gradients_by_rectified_grad_cam(
    task: Task, images: Tensor
) -> None:
    twin = with_plain_modules(task.model, Addition_Module)
    guided = GuidedBackprop(twin).attribute(images.clone(), TARGETS)
    cam = _maps("Grad-CAM", task, images)[:, None].relu()
    expected = (guided * LayerAttribution.interpolate(cam, (16, 16))).abs().sum(1)
    torch.testing.assert_close(_maps("Guided Grad-CAM", task, images), expected)


def test_lrp_by_epsilon_is_input_x_gradient_on_rectifiers(task: Task, images: Tensor) -> None:
    # Ancona et al. (2018), proposition 3.1
    expected = _maps("Input x Gradient", task, images)
    torch.testing.assert_close(_maps("LRP", task, images), expected, atol=1e-4, rtol=1e-3)


def test_layer_lrp_at_the_deepest_layer_is_grad_cam(task: Task, images: Tensor) -> None:
    found = _fitted(LayerwiseRelevance(-1), task).maps(images, TARGETS)
    torch.testing.assert_close(found, _maps("Grad-CAM", task, images), atol=1e-5, rtol=1e-4)


def test_occlusion_averages_the_drops_of_windows_over_each_pixel(
    task: Task, images: Tensor
) -> None:
    method = _fitted(METHODS["Occlusion"](), task)
    side, stride = 2, 1
    drops, counts = np.zeros((4, 16, 16)), np.zeros((16, 16))
    with torch.no_grad():
        whole = _logits(task, images)
        for y, x in product(range(0, 15, stride), repeat=2):
            window = (slice(y, y + side), slice(x, x + side))
            changed = images.clone()
            changed[:, :, window[0], window[1]] = 0
            drop = (whole - _logits(task, changed)).numpy()
            drops[:, window[0], window[1]] += drop[:, None, None]
            counts[window] += 1
    assert method.passes == 1 + 15**2
    found = method.maps(images, TARGETS)
    np.testing.assert_allclose(found, drops / counts, atol=1e-5)


@pytest.mark.parametrize("name", ["Guided Grad-CAM", "DeepLIFT"])
def test_fit_refuses_activations_without_a_rule(name: str) -> None:
    with pytest.raises(UnavailableError, match="no rule for ReLU6"):
        METHODS[name]().fit(tiny_resnet_task(model=_with(nn.ReLU6()), layers=("1",)), 0)


def test_lrp_refuses_layers_without_a_rule() -> None:
    task = tiny_resnet_task(model=_with(nn.ReLU6()), layers=("1",))
    method = _fitted(METHODS["LRP"](), task)
    with pytest.raises(UnavailableError, match="no rule for ReLU6"):
        method.maps(task.sample("test", 1).inputs, torch.tensor([0]))


def _with(activation: nn.Module) -> nn.Module:
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3), activation, pool, nn.Flatten(), nn.Linear(4, 3))
