from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from benchmarks.measures.formulas.agreement import map_correlation, matched_cosine, rand_index
from benchmarks.quality.method import Prototypes


def test_rand_index_counts_pairs():
    generator = torch.Generator().manual_seed(0)
    one = torch.randint(3, (4, 5, 5), generator=generator)
    other = torch.where(torch.rand(one.shape, generator=generator) < 0.5, one, one * 2 + 1)
    for a, b, found in zip(one, other, rand_index(one, other), strict=True):
        pairs = list(itertools.combinations(range(25), 2))
        same_a = np.array([a.flatten()[i] == a.flatten()[j] for i, j in pairs])
        same_b = np.array([b.flatten()[i] == b.flatten()[j] for i, j in pairs])
        expected = same_a.sum() * same_b.sum() / len(pairs)
        most = (same_a.sum() + same_b.sum()) / 2
        index = ((same_a & same_b).sum() - expected) / (most - expected)
        assert found.item() == pytest.approx(index)


def test_rand_index_ignores_the_numbers():
    one = torch.randint(5, (2, 6, 6), generator=torch.Generator().manual_seed(0))
    assert rand_index(one, 10 - 2 * one).tolist() == [1, 1]


def test_map_correlation_is_numpys():
    one, other = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    found = map_correlation(one, other)
    for a, b, value in zip(one, other, found, strict=True):
        expected = np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1]
        assert value.item() == pytest.approx(expected, abs=1e-6)
    assert map_correlation(one, 3 * one + 1).tolist() == pytest.approx([1] * 5)
    assert map_correlation(one, torch.ones_like(one)).isnan().all()


def test_matched_cosine_is_the_best_of_all_pairings():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 6, 4, generator=generator)
    classes = torch.tensor([0, 0, 0, 1, 1, 1])
    total = 0.0
    for c in (0, 1):
        a, b = (x[classes == c].double().numpy() for x in (one, other))
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
        total += max((a * b[list(order)]).sum() for order in itertools.permutations(range(3)))
    found = matched_cosine(Prototypes(one, classes), Prototypes(other, classes))
    assert found.item() == pytest.approx(total / 6)
    order = torch.tensor([2, 0, 1, 5, 3, 4])
    again = matched_cosine(Prototypes(one, classes), Prototypes(5 * one[order], classes))
    assert again.item() == pytest.approx(1)
