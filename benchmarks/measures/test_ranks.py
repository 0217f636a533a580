from __future__ import annotations

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.measures.formulas.ranks import spearman, steady


def test_spearman_equals_scipy_with_ties() -> None:
    random = torch.Generator().manual_seed(0)
    a, b = torch.randint(4, (2, 20, 7), generator=random).double()
    known = torch.rand(20, 7, generator=random) < 0.8
    known[:, :3] = True
    for i, value in enumerate(spearman(a, b, known).tolist()):
        k = known[i]
        assert np.isclose(value, spearmanr(a[i][k], b[i][k]).statistic)


def test_rounding_errors_break_no_tie_and_differences_stay() -> None:
    random = torch.Generator().manual_seed(0)
    noise = 1 + 1e-9 * torch.randn(5, 7, generator=random).double()
    row = torch.tensor([[0.3, 0.3, -2.0, 0.3001, 5.0, 5.0, 0.0]]).double()
    found = steady(row * noise)
    assert torch.allclose(found, row.expand(5, 7), rtol=0, atol=1e-5)
    for values in found:
        assert values.unique().tolist() == sorted(set(values.tolist()))
        assert [len(set(values[i].tolist())) for i in ([0, 1], [4, 5], [0, 3])] == [1, 1, 2]
    assert not steady(torch.zeros(2, 3)).any()
