from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.measures.localisation import (
    pointing,
    relevance_mass,
    relevance_rank,
    segment_ious,
)

Case = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def case() -> Case:
    rng = torch.Generator().manual_seed(0)
    maps = torch.randint(-3, 4, (12, 7, 5), generator=rng).float()  # with many ties
    masks = torch.rand(12, 7, 5, generator=rng) < 0.4
    segments = torch.randint(0, 6, (12, 7, 5), generator=rng)
    return maps, masks, segments


def test_pointing_is_the_share_of_maximal_pixels_inside(case: Case) -> None:
    maps, masks, _ = case
    for got, a, m in zip(pointing(maps, masks), maps.numpy(), masks.numpy(), strict=True):
        where = np.argwhere(a == a.max())
        assert got == pytest.approx(np.mean([m[tuple(place)] for place in where]))


def test_pointing_of_a_flat_map_is_the_area(case: Case) -> None:
    _, masks, _ = case
    flat = 0.1 + 1e-9 * torch.rand(masks.shape, dtype=torch.float64)
    assert torch.allclose(pointing(flat, masks), masks.double().mean((1, 2)))


def test_mass_adds_positive_relevance_alone(case: Case) -> None:
    maps, masks, _ = case
    for got, a, m in zip(relevance_mass(maps, masks), maps.numpy(), masks.numpy(), strict=True):
        inside = sum(max(v, 0) for v, is_in in zip(a.flat, m.flat, strict=True) if is_in)
        assert got == pytest.approx(inside / sum(max(v, 0) for v in a.flat))


def test_mass_within_looks_at_nothing_outside(case: Case) -> None:
    maps, masks, _ = case
    figure = masks | (torch.rand(masks.shape, generator=torch.Generator().manual_seed(1)) < 0.5)
    expected = relevance_mass(torch.where(figure, maps, 0), masks)
    changed = torch.where(figure, maps, 7.0)
    assert torch.equal(relevance_mass(changed, masks, figure), expected)


def test_mass_of_a_map_without_positive_relevance_is_undefined(case: Case) -> None:
    maps, masks, _ = case
    assert relevance_mass(-maps.abs(), masks).isnan().all()


def test_rank_is_the_mean_over_all_orders_of_ties(case: Case) -> None:
    maps, masks, _ = case
    rng = np.random.default_rng(0)
    for got, a, m in zip(relevance_rank(maps, masks), maps.numpy(), masks.numpy(), strict=True):
        size, values, inside = m.sum(), a.ravel(), m.ravel()
        drawn = [
            inside[np.lexsort((rng.random(values.size), -values))[:size]].mean()
            for _ in range(2000)
        ]
        assert got == pytest.approx(np.mean(drawn), abs=0.02)


def test_rank_without_ties_counts_the_highest_pixels() -> None:
    maps = torch.randperm(60, generator=torch.Generator().manual_seed(0)).view(2, 6, 5).double()
    masks = torch.rand(2, 6, 5, generator=torch.Generator().manual_seed(1)) < 0.3
    for got, a, m in zip(relevance_rank(maps, masks), maps.numpy(), masks.numpy(), strict=True):
        size = m.sum()
        assert got == pytest.approx(m.ravel()[np.argsort(-a.ravel())[:size]].mean())


def test_segment_ious_equal_a_loop(case: Case) -> None:
    maps, masks, segments = case
    best, foremost = segment_ious(segments, maps, masks)
    for n in range(len(maps)):
        a, m, s = maps[n].numpy(), masks[n].numpy(), segments[n].numpy()
        ious = {k: np.mean(m[(s == k) | m] & (s == k)[(s == k) | m]) for k in np.unique(s)}
        top = max(ious, key=lambda k: a[s == k].mean())
        assert best[n] == pytest.approx(max(ious.values()))
        assert foremost[n] == pytest.approx(ious[top])


def test_a_perfect_map_scores_one(case: Case) -> None:
    _, masks, _ = case
    maps = masks.float()
    for score in (pointing, relevance_mass, relevance_rank):
        assert torch.equal(score(maps, masks), torch.ones(len(masks), dtype=torch.float64))
    best, foremost = segment_ious(masks.long(), maps, masks)
    assert torch.equal(best, foremost)
    assert (best == 1).all()
