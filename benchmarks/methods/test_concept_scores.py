from __future__ import annotations

import pytest
import torch
from scipy.stats import ttest_ind

from benchmarks.methods.systems.concept_scores import p_values


def test_p_values_are_those_of_scipy():
    generator = torch.Generator().manual_seed(0)
    scores, chance = (torch.rand(3, 6, generator=generator) for _ in range(2))
    found = p_values(scores, chance)
    for k in range(3):
        expected = ttest_ind(scores[k].numpy(), chance[k].numpy()).pvalue
        assert found[k].item() == pytest.approx(expected, rel=1e-4)


def test_p_values_of_constant_scores_are_certain():
    scores = torch.stack([torch.full((4,), v) for v in (0.1, 0.7)])
    assert p_values(scores, torch.full((2, 4), 0.1)).tolist() == [1, 0]
