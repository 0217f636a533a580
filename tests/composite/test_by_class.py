"""Prototypes side by side, class by class, against a plain loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from captum_kmex.bank.codebook import Codebook
from captum_kmex.composite.by_class import ClassPrototypes

MEMBERSHIP = torch.tensor([2, 0, 2, 5, 0, 2])


@pytest.fixture
def centroids() -> Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def group(centroids: Tensor, membership: Tensor) -> ClassPrototypes:
    counts = torch.ones(len(centroids), dtype=torch.int64)
    return ClassPrototypes.of(Codebook(centroids, membership, counts, counts.float()))


@pytest.fixture
def grouped(centroids) -> ClassPrototypes:
    return group(centroids, MEMBERSHIP)


def test_each_class_has_its_own_prototypes_in_order(grouped, centroids):
    assert (len(grouped), grouped.count) == (6, 3)
    for c in range(6):
        own = MEMBERSHIP.eq(c).nonzero().squeeze(1).tolist()
        owner = grouped.owner[c].tolist()
        assert owner == own + [-1] * (3 - len(own))
        for position, k in enumerate(own):
            assert torch.equal(grouped.centroids[c, position], centroids[k])


def test_padding_repeats_the_first_prototype_of_the_class(grouped, centroids):
    assert torch.equal(grouped.centroids[0, 2], centroids[1])
    assert torch.equal(grouped.centroids[5, 1:], centroids[[3, 3]])


def test_known_are_the_positions_of_classes_with_prototypes(grouped):
    classes = torch.tensor([0, 1, 2, 7, 5, 3, 6, 2])
    assert grouped.known(classes).tolist() == [0, 2, 4, 7]


def test_known_of_no_image_is_empty(grouped):
    assert grouped.known(torch.zeros(0, dtype=torch.int64)).tolist() == []


@pytest.mark.parametrize(("budget", "size"), [(1, 1), (30, 1), (60, 2), (10**6, 5)])
def test_chunks_keep_to_the_budget_and_miss_nothing(grouped, budget, size):
    classes = torch.tensor([0, 2, 4, 2, 0, 5])
    chunks = list(grouped.chunks(classes, 10, budget))  # 30 scores an image
    assert [len(chunk) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
    assert torch.cat(chunks).tolist() == [0, 1, 3, 4, 5]


def test_class_agnostic_prototypes_are_one_group(centroids):
    shares = torch.rand(6, 3)
    grouped = group(centroids, shares)
    assert (len(grouped), grouped.count) == (1, 6)
    assert grouped.owner.tolist() == [list(range(6))]
    assert torch.equal(grouped.centroids[0], centroids)
