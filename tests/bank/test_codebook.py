"""Codebooks and banks are data: compared by identity, asked by class and depth."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from captum_kmex.bank import Codebook, ModelFingerprint, PrototypeBank, Representatives, Surrogate


def book(membership: torch.Tensor) -> Codebook:
    counts = torch.ones(len(membership), dtype=torch.int64)
    return Codebook(torch.rand(len(membership), 2), membership, counts, torch.zeros(len(counts)))


def bank(*layers: str) -> PrototypeBank:
    books = tuple(book(torch.tensor([0, 1, 1])) for _ in layers or ("",))
    fingerprint = ModelFingerprint.of(nn.Linear(1, 1))
    return PrototypeBank(
        "LayerKMeansAttribution", layers, False, (1.0,), books, 2, (0.0, 1.0), fingerprint, {}
    )


@pytest.mark.parametrize(
    "made",
    [
        lambda: book(torch.tensor([0, 1])),
        lambda: bank("a"),
        lambda: Representatives(torch.zeros(1, 2), torch.zeros(1, 2, 4), torch.zeros(1, 2)),
        lambda: Surrogate("a", torch.zeros(2, 3), torch.zeros(2), 0.5),
    ],
    ids=["codebook", "bank", "representatives", "ridge_head"],
)
def test_comparing_with_a_copy_is_false_and_no_error(made):
    one = made()
    assert one == one
    assert one != copy.deepcopy(one)
    assert len({one, copy.copy(one)}) == 2


def test_codebook_with_shares_of_classes_is_agnostic():
    assert book(torch.rand(3, 2)).is_agnostic
    assert not book(torch.tensor([0, 1, 1])).is_agnostic


def test_prototypes_of_a_class():
    assert book(torch.tensor([1, 0, 1])).of_class(1).tolist() == [0, 2]
    assert book(torch.rand(3, 2)).of_class(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("name", "position"), [("b", 1), (0, 0), (-1, 1), ("a", 0)])
def test_depth_is_found_by_name_or_position(name, position):
    assert bank("a", "b").depth(name) == position


def test_bank_without_layers_has_one_depth():
    assert bank().depth(0) == bank().depth(-1) == 0


@pytest.mark.parametrize("name", ["c", 2, -3, 0.5])
def test_unknown_depth_is_refused(name):
    with pytest.raises(ValueError, match=r"is not one of the 2 layers \['a', 'b'\]"):
        bank("a", "b").depth(name)
