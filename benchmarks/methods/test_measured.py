from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.measures.formulas.toy import linear_net, task_of
from benchmarks.methods.measured import METHODS, Rise
from benchmarks.methods.systems.tiny_resnet_task import tiny_resnet_task
from benchmarks.quality.task import Sample, Task

TARGETS = torch.tensor([0, 2])


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_resnet_task(channels=3)


def _task(weight: Tensor, images: Tensor) -> Task:
    """A network of one linear layer, and its images."""
    sample = Sample(images, torch.zeros(len(images)).long())
    return replace(task_of(linear_net(weight), 2), sample=lambda *_: sample)


@pytest.mark.parametrize("name", METHODS)
def test_a_picture_has_one_map_whatever_is_explained_with_it(name: str, task: Task) -> None:
    method, images = METHODS[name](), task.sample("test", 2).inputs
    method.fit(task, 0)
    both = method.maps(images, TARGETS)
    assert both.isfinite().all()
    assert (both.flatten(1).std(1) > 0).all()
    torch.testing.assert_close(method.maps(images[1:], TARGETS[1:]), both[1:])


@pytest.mark.parametrize("name", [name for name in METHODS if "measured" in name])
def test_measured_maps_and_their_base_add_up_to_the_logit(name: str, task: Task) -> None:
    method, images = METHODS[name](), task.sample("test", 2).inputs
    method.fit(task, 0)
    total = method.base(images, TARGETS) + method.maps(images, TARGETS).sum((1, 2))
    with torch.no_grad():
        logits = task.model(images)
    torch.testing.assert_close(total, logits[[0, 1], TARGETS], atol=1e-4, rtol=1e-4)


def test_rise_is_the_mean_of_the_masks_weighted_by_the_probability() -> None:
    random = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(n, 1, 14, 14, generator=random) for n in (2, 1))
    task, rise = _task(weight, x), Rise(20)
    rise.fit(task, 0)
    found = rise.maps(x[:1], torch.tensor([1]))[0]
    masks = rise.masks[:, 0]
    chances = torch.stack([task.model(x[:1] * mask).softmax(1)[0, 1] for mask in masks])
    expected = sum(c * mask for c, mask in zip(chances, masks, strict=True)) / chances.sum()
    torch.testing.assert_close(found, expected)
    assert masks.min() >= 0
    assert masks.max() <= 1
