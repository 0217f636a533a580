from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.measures.cost import MEASURES
from benchmarks.measures.formulas.toy import Given, answers_of, task_of
from benchmarks.quality.method import Method, UnavailableError

_SCORE = MEASURES[0].score


def _net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.Flatten(), nn.Linear(2304, 3)).eval()


def test_memory_counts_what_the_explanation_holds_beside_the_forward_pass() -> None:
    net, x = _net(), torch.randn(8, 1, 16, 16)
    first = next(iter(net.children()))

    def hoard(inputs: Tensor, _: Tensor) -> Tensor:
        with torch.no_grad():
            kept = [first(inputs) for _ in range(12)]
        return torch.stack(kept).mean((0, 2))

    task = task_of(net, 3)
    one = _SCORE(answers_of(task, Given(lambda x, _: net(x)[:, 0, None, None]), x))
    many = _SCORE(answers_of(task, Given(hoard), x))
    assert many["memory"] > 3 * one["memory"]
    assert many["seconds"] > 0


def test_a_method_of_too_many_passes_has_no_memory() -> None:
    method = Given(lambda x, _: x[:, 0], passes=1e6)
    found = _SCORE(answers_of(task_of(_net(), 3), method, torch.randn(8, 1, 16, 16)))
    assert found["memory"].isnan()
    assert found["seconds"] > 0


class _Predicts(Method):
    family = source = "test"

    def predict(self, inputs: Tensor) -> Tensor:
        return inputs.sum((1, 2, 3)).long()


class _Mute(Method):
    family = source = "test"


def test_a_method_without_maps_is_timed_on_what_it_has() -> None:
    task, x = task_of(_net(), 3), torch.randn(8, 1, 16, 16)
    assert _SCORE(answers_of(task, _Predicts(), x))["seconds"] > 0
    with pytest.raises(UnavailableError, match="explains no single image"):
        _SCORE(answers_of(task, _Mute(), x))
