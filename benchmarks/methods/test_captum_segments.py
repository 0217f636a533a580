from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.measures.formulas.toy import linear_net, task_of
from benchmarks.methods.captum_segments import (
    METHODS,
    AblationOfSegments,
    ShapleyOnSegments,
    squares,
)
from benchmarks.methods.systems.tiny_resnet_task import tiny_resnet_task
from benchmarks.quality.task import Task

TARGETS = torch.tensor([0, 2])


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_resnet_task(channels=3)


@pytest.mark.parametrize("name", [name for name in METHODS if "B234" not in name])
def test_of_a_linear_network_it_is_what_each_segment_adds(name: str) -> None:
    random = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(n, 1, 12, 12, generator=random) for n in (2, 1))
    method = METHODS[name]()
    method.fit(task_of(linear_net(weight), 2), 0)
    (found,) = method.maps(x, torch.tensor([1]))
    (segments,) = method.segments(x, torch.tensor([1]))
    assert len(segments.unique()) > 20
    for part in segments.unique():
        inside = segments == part
        added = float((x[0, 0] * weight[1, 0])[inside].sum())
        assert float(found[inside].sum()) == pytest.approx(added, abs=1e-2)


@pytest.mark.parametrize("name", METHODS)
def test_a_map_is_flat_within_segments_and_the_same_in_any_batch(name: str, task: Task) -> None:
    method, images = METHODS[name](), task.sample("test", 2).inputs
    method.fit(task, 0)
    maps, segments = method.maps(images, TARGETS), method.segments(images, TARGETS)
    for values, labels in zip(maps, segments, strict=True):
        for label in labels.unique():
            torch.testing.assert_close(*values[labels == label].aminmax())
    torch.testing.assert_close(method.maps(images[1:], TARGETS[1:]), maps[1:])
    assert (maps.flatten(1).std(1) > 0).all()


def test_one_segment_alone_is_worth_all(task: Task) -> None:
    images = task.sample("test", 2).inputs
    lost = (_logits(task, images) - _logits(task, torch.zeros_like(images)))[[0, 1], TARGETS]
    for kind in (ShapleyOnSegments, AblationOfSegments):
        method = kind(lambda x: torch.zeros_like(x[:, 0]).long())
        method.fit(task, 0)
        torch.testing.assert_close(method.maps(images, TARGETS).sum((1, 2)), lost)


def test_ablation_of_a_segment_is_what_the_logit_loses(task: Task) -> None:
    method, images = METHODS["FeatureAblation on B234 segments"](), task.sample("test", 2).inputs
    method.fit(task, 0)
    maps, segments = method.maps(images, TARGETS), method.segments(images, TARGETS)
    whole = _logits(task, images)
    for i, labels in enumerate(segments):
        for label in labels.unique():
            inside = labels == label
            less = _logits(task, (images[i] * ~inside)[None])[0, TARGETS[i]]
            lost = float(whole[i, TARGETS[i]] - less)
            assert float(maps[i][inside].sum()) == pytest.approx(lost, abs=1e-4)


@pytest.mark.parametrize("side", [7, 28, 64, 224])
def test_squares_are_as_equal_as_the_pixels_allow(side: int) -> None:
    areas = squares(torch.zeros(1, 1, side, side))[0].flatten().bincount()
    assert len(areas) == 49
    assert int(areas.min()) >= (side // 7) ** 2
    assert int(areas.max()) <= (-(-side // 7)) ** 2


@torch.no_grad()
def _logits(task: Task, images: Tensor) -> Tensor:
    found = task.model(images)
    assert isinstance(found, Tensor)
    return found
