from __future__ import annotations

import builtins
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from benchmarks.methods.binary_partition_tree import METHODS
from benchmarks.methods.systems.tiny_resnet_task import tiny_resnet_task
from benchmarks.quality.method import Method
from benchmarks.quality.task import Task

TARGETS = torch.tensor([0, 2, 1])


def _fitted(task: Task) -> Method:
    method = METHODS["ShapBPT"]()
    method.fit(task, 0)
    return method


def _chances(task: Task, images: Tensor) -> Tensor:
    with torch.no_grad():
        return task.model(images).softmax(1).gather(1, TARGETS[:, None])[:, 0]


@pytest.fixture(autouse=True)
def _package() -> None:
    pytest.importorskip("shap_bpt")


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_map_adds_up_to_the_probability_less_that_of_nothing(channels: int) -> None:
    task = tiny_resnet_task(channels)
    images = task.sample("test", 3).inputs
    kept = images.clone()
    maps = _fitted(task).maps(images, TARGETS)
    assert (maps.shape, maps.dtype, maps.requires_grad) == ((3, 16, 16), torch.float32, False)
    expected = _chances(task, images) - _chances(task, torch.zeros_like(images))
    torch.testing.assert_close(maps.sum((1, 2)), expected, atol=1e-5, rtol=0)
    assert torch.equal(images, kept)
    alone = _fitted(task).maps(images[1:2], TARGETS[1:2])
    torch.testing.assert_close(alone[0], maps[1])


def test_halves_of_two_colours_get_their_shapley_values() -> None:
    task = tiny_resnet_task(3)
    images = torch.full((3, 3, 16, 16), 1.2)
    images[..., 8:] = -1.4
    left, right = images.clone(), images.clone()
    left[..., 8:], right[..., :8] = 0, 0
    neither = torch.zeros_like(images)
    both, one, other, none = (_chances(task, x) for x in (images, left, right, neither))
    maps = _fitted(task).maps(images, TARGETS)
    expected = torch.stack([one - none + both - other, other - none + both - one], 1) / 2
    found = torch.stack([maps[..., :8].sum((1, 2)), maps[..., 8:].sum((1, 2))], 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_network_sees_as_many_images_as_the_method_tells() -> None:
    task = tiny_resnet_task(3)
    seen: list[int] = []

    class Counted(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(len(images))
            logits: Tensor = task.model(images)
            return logits

    method = _fitted(replace(task, model=Counted().eval()))
    method.maps(task.sample("test", 1).inputs, TARGETS[:1])
    assert sum(seen) == method.passes


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name == "shap_bpt":
            raise ImportError(name)
        return plain(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match="pip install shap-bpt"):
        _fitted(tiny_resnet_task(3))
