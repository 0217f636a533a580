from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import LayerActivation
from numpy.typing import NDArray
from pytorch_grad_cam.utils.image import scale_cam_image
from torch import Tensor, nn

from benchmarks.methods.grad_cam_package import METHODS
from benchmarks.methods.systems.tiny_resnet_task import tiny_resnet_task
from benchmarks.quality.method import UnavailableError
from benchmarks.quality.task import Task
from captum_kmex import ClassifierPrototypes

TARGETS = torch.tensor([0, 2, 1, 1])


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_resnet_task(channels=3)


def _maps(name: str, task: Task, images: Tensor) -> Tensor:
    method = METHODS[name]()
    method.fit(task, 0)
    return method.maps(images, TARGETS)


def _as_the_package_draws(maps: Tensor) -> NDArray[np.float32]:
    drawn: NDArray[np.float32] = scale_cam_image(
        scale_cam_image(maps.relu().detach().numpy(), (16, 16))
    )
    return drawn


def test_hires_cam_is_the_map_of_the_classifier_prototypes(task: Task) -> None:
    images = task.sample("test", 4).inputs
    ours = ClassifierPrototypes(task.model).attribute(images, TARGETS)
    assert isinstance(ours, Tensor)
    expected = _as_the_package_draws(ours[:, 0])
    np.testing.assert_allclose(_maps("HiResCAM", task, images), expected, atol=1e-4)


def test_layer_cam_leaves_out_channels_against_the_class(task: Task) -> None:
    images = task.sample("test", 4).inputs
    activations = LayerActivation(task.model, task.model.layer4).attribute(images)
    columns = task.model.get_parameter("fc.weight")[TARGETS].relu()
    expected = _as_the_package_draws(torch.einsum("ndhw,nd->nhw", activations, columns))
    np.testing.assert_allclose(_maps("LayerCAM", task, images), expected, atol=1e-4)


def test_score_cam_weighs_each_channel_by_the_logit_it_lets_through(task: Task) -> None:
    images = task.sample("test", 4).inputs
    activations = LayerActivation(task.model, task.model.layer4).attribute(images).detach()
    scaled = nn.UpsamplingBilinear2d(size=(16, 16))(activations)
    low, high = scaled.amin((2, 3), keepdim=True), scaled.amax((2, 3), keepdim=True)
    masks = (scaled - low) / (high - low + 1e-8)
    maps = []
    for image, target, kept, mask in zip(images, TARGETS, activations, masks, strict=True):
        with torch.no_grad():
            scores = [task.model((image * m)[None])[0, target] for m in mask]
        maps.append(torch.einsum("k,khw->hw", torch.stack(scores).softmax(0), kept))
    expected = _as_the_package_draws(torch.stack(maps))
    np.testing.assert_allclose(_maps("Score-CAM", task, images), expected, atol=1e-3)


def test_score_cam_counts_a_pass_for_every_channel(task: Task) -> None:
    method = METHODS["Score-CAM"]()
    method.fit(task, 0)
    assert method.passes == 1 + 32


def test_factorization_of_few_channels_keeps_the_logit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    task = tiny_resnet_task(model=model, layers=("1",))
    images = task.sample("test", 4).inputs
    with torch.no_grad():
        least = model[:2](images).amin((2, 3))
        kept = model(images) - model[-1](least)  # what is everywhere belongs to no concept
    total = _maps("Deep Feature Factorization", task, images).sum((1, 2))
    torch.testing.assert_close(total, kept.gather(1, TARGETS[:, None])[:, 0], atol=0.01, rtol=0)


def test_factorization_shares_no_concepts(task: Task) -> None:
    method = METHODS["Deep Feature Factorization"]()
    method.fit(task, 0)
    images = task.sample("test", 2).inputs
    segments = method.segments(images, TARGETS[:2])
    assert segments.shape == (2, 16, 16)
    assert 1 < len(segments.unique()) <= 5
    assert not method.shares_concepts
    with pytest.raises(UnavailableError, match="no concept is shared"):
        method.concepts(images, TARGETS[:2])
