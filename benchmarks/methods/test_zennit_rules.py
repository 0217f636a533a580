from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zennit.attribution import Gradient
from zennit.composites import EpsilonPlusFlat
from zennit.torchvision import ResNetCanonizer

from benchmarks.methods.systems.tiny_resnet_task import tiny_resnet_task
from benchmarks.methods.zennit_rules import METHODS
from benchmarks.quality.task import Task

TARGETS = torch.tensor([0, 2, 1, 1])


def _positive() -> Task:
    """Return a task whose network has positive weights and no bias: no relevance is lost."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3, bias=False),
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.data.abs_()
    return tiny_resnet_task(model=model, layers=("1", "3"))


def test_plain_modules_give_what_the_package_gives_for_its_own_resnets() -> None:
    task = tiny_resnet_task(channels=3)
    images = task.sample("test", 4).inputs
    method = METHODS["EpsilonPlusFlat"]()
    method.fit(task, 0)
    composite = EpsilonPlusFlat(canonizers=[ResNetCanonizer()])
    with Gradient(task.model, composite) as attributor:
        expected = attributor(images.clone(), F.one_hot(TARGETS, 3).float())[1].sum(1)
    torch.testing.assert_close(method.maps(images, TARGETS), expected)


@pytest.mark.parametrize("name", METHODS)
def test_relevance_is_conserved_without_biases(name: str) -> None:
    task = _positive()
    images = task.pictures(task.sample("test", 4).inputs) + 0.1  # nothing rectified away
    method = METHODS[name]()
    method.fit(task, 0)
    total = method.maps(images, TARGETS).sum((1, 2))
    torch.testing.assert_close(total, torch.ones(4), atol=1e-3, rtol=0)


def test_box_is_the_range_of_pictures() -> None:
    task = _positive()
    black, white = (0 - task.mean[0]) / task.std[0], (1 - task.mean[0]) / task.std[0]
    images = torch.full((4, 1, 16, 16), black)
    images[:, :, :8] = white
    method = METHODS["EpsilonGammaBox"]()
    method.fit(task, 0)
    maps = method.maps(images, TARGETS)
    assert maps[:, 8:].abs().max() < 1e-5 * maps[:, :8].max()
