from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.measures.faithfulness import blurred
from benchmarks.measures.formulas.toy import Given, answers_of, linear_net, task_of
from benchmarks.measures.other_fills import MEASURES


def test_curves_equal_a_loop_over_pixels() -> None:
    random = torch.Generator().manual_seed(3)
    x, maps = torch.randn(2, 3, 4, 5, generator=random), torch.randn(2, 4, 5, generator=random)
    weight = torch.randn(3, 4, 5, generator=random)
    task = task_of(linear_net(torch.stack([weight, torch.zeros_like(weight)])), 2)
    given = Given(lambda *_: maps)
    found = MEASURES[0].score(answers_of(task, given, x, targets=torch.zeros(2).long()))

    def walk(start: Tensor, end: Tensor, one: int) -> float:
        order = np.argsort(-maps[one].flatten().numpy()).tolist()
        now, points = start[one].clone(), []
        for step in range(7):
            for pixel in order[: round(20 * step / 6)]:
                now[:, pixel // 5, pixel % 5] = end[one, :, pixel // 5, pixel % 5]
            points.append(1 / (1 + np.exp(-float((now * weight).sum()))))
        return float(np.mean([(a + b) / 2 for a, b in pairwise(points)]))

    for one in range(2):
        deletion, insertion = walk(x, blurred(x), one), walk(torch.zeros_like(x), x, one)
        assert found["deletion"][one].item() == pytest.approx(deletion, abs=1e-6)
        assert found["insertion"][one].item() == pytest.approx(insertion, abs=1e-6)
