"""What the tests of measures need: a task in memory and a method whose maps are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.quality.measure import Answers
from benchmarks.quality.method import Method
from benchmarks.quality.presets import Preset
from benchmarks.quality.task import Sample, Task

__all__ = ["Given", "answers_of", "linear_net", "task_of"]

Explain = Callable[[Tensor, Tensor], Tensor]


class Given(Method):
    """A method whose maps are a function of images and targets."""

    family = "test"
    source = "test"

    def __init__(self, explain: Explain, passes: float = 1.0) -> None:
        self._explain, self.passes = explain, passes

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return what the function gives."""
        return self._explain(inputs, targets)


def linear_net(weight: Tensor) -> nn.Module:
    """Return a network whose logits are sums of weight (J, C, H, W) times image."""
    layer = nn.Linear(weight[0].numel(), len(weight), bias=False)
    layer.weight = nn.Parameter(weight.flatten(1))
    return nn.Sequential(nn.Flatten(), layer).eval()


def task_of(model: nn.Module, n_classes: int, weight: float = 0.01) -> Task:
    """Return a task of this network, without data."""

    def sample(split: str, count: int) -> Sample:
        raise NotImplementedError

    names = tuple(map(str, range(n_classes)))
    return Task("toy", "Toy", model, (), names, None, None, sample, (0.0,), (1.0,), weight)


def answers_of(task: Task, method: Method, inputs: Tensor, **known: Any) -> Answers:
    """Return a method's answers on images; what is known of them are fields of ``Sample``."""
    with torch.no_grad():
        targets = known.pop("targets", task.model(inputs).argmax(1))
    count = len(inputs)
    preset = Preset("toy", (), count, count, 6, None, None, (0,), 10**6)
    return Answers(method, task, Sample(inputs, targets, **known), preset, 0, lambda _: method)
