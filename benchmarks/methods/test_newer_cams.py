from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import LayerActivation, LayerGradCam
from pytorch_grad_cam.utils.image import scale_cam_image
from torch import Tensor

from benchmarks.methods.newer_cams import METHODS
from benchmarks.methods.systems.tiny_resnet_task import tiny_resnet_task
from benchmarks.quality.task import Task

TARGETS = torch.tensor([0, 2, 1, 1])


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_resnet_task(channels=3)


def _maps(name: str, task: Task, images: Tensor) -> Tensor:
    method = METHODS[name]()
    method.fit(task, 0)
    return method.maps(images, TARGETS)


def _drawn(maps: Tensor) -> np.ndarray:
    size = (16, 16)
    found: np.ndarray = scale_cam_image(scale_cam_image(maps.relu().detach().numpy(), size))
    return found


def test_finer_cam_is_grad_cam_of_the_difference_to_the_nearest_classes(task: Task) -> None:
    images = task.sample("test", 4).inputs
    layer = task.model.layer4
    expected = []
    for image, target in zip(images, TARGETS.tolist(), strict=True):
        with torch.no_grad():
            logits = task.model(image[None])[0]
        nearest = [int(c) for c in (logits - logits[target]).abs().argsort() if c != target][:3]

        def weighted(x: Tensor, target: int = target, nearest: list[int] = nearest) -> Tensor:
            found = task.model(x)
            share = found.softmax(1)[:, nearest]
            return ((found[:, [target]] - found[:, nearest]) * share).sum(1) / share.sum(1)

        expected.append(LayerGradCam(weighted, layer).attribute(image[None])[0, 0])
    ours = _maps("FinerCAM", task, images)
    np.testing.assert_allclose(ours, _drawn(torch.stack(expected)), atol=1e-3)


def test_refine_cam_is_zero_where_one_layer_has_nothing(task: Task) -> None:
    images = task.sample("test", 4).inputs
    maps = _maps("RefineCAM", task, images)
    assert maps.shape == (4, 16, 16)
    assert float(maps.min()) == 0
    assert maps.flatten(1).amax(1).tolist() == pytest.approx([1.0] * 4, abs=1e-4)


def test_shapley_cam_of_a_linear_head_is_grad_cam(task: Task) -> None:
    images = task.sample("test", 4).inputs
    expected = torch.cat(
        [
            LayerGradCam(task.model, task.model.layer4).attribute(x[None], int(t))
            for x, t in zip(images, TARGETS, strict=True)
        ]
    )
    np.testing.assert_allclose(_maps("ShapleyCAM", task, images), _drawn(expected[:, 0]), atol=1e-3)


def test_recipro_cam_is_the_probability_with_a_cell_and_its_neighbours_kept(task: Task) -> None:
    images = task.sample("test", 4).inputs
    weight, bias = (task.model.get_parameter(f"fc.{name}").detach() for name in ("weight", "bias"))
    found = _maps("Recipro-CAM", task, images)
    kept = LayerActivation(task.model, task.model.layer4).attribute(images).detach()
    height, width = kept.shape[2:]
    for features, target, own in zip(kept, TARGETS, found, strict=True):
        expected = torch.zeros(height, width)
        for i in range(height):
            for j in range(width):
                pooled = torch.zeros(len(features))
                for y in range(max(0, i - 1), min(height, i + 2)):
                    for x in range(max(0, j - 1), min(width, j + 2)):
                        share = 0.25 / 2 ** (abs(y - i) + abs(x - j))
                        pooled += share * features[:, y, x] / (height * width)
                expected[i, j] = (weight @ pooled + bias).softmax(0)[target]
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        torch.testing.assert_close(own, expected, atol=1e-4, rtol=0)
