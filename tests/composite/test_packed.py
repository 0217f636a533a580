"""What is kept of a codebook's prototypes, and for how long."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch

from captum_kmex.bank.prototype_bank import Codebook
from captum_kmex.composite import packed
from captum_kmex.composite.packed import PackedPrototypes, packed_prototypes

LIKE = torch.zeros(1)


@pytest.fixture
def book() -> Codebook:
    centroids = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    return Codebook(centroids, torch.arange(6), torch.ones(6, dtype=torch.int64), torch.ones(6))


def test_offsets_are_minus_half_the_squared_norm():
    prototypes = PackedPrototypes(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    assert prototypes.offsets.tolist() == [-12.5, -2.0]


@pytest.mark.parametrize("kept", [0, 2**20], ids=["made_again", "kept"])
def test_finest_stacks_columns_on_offsets(monkeypatch, kept):
    monkeypatch.setattr(packed, "_KEPT_BYTES", kept)
    values = torch.arange(12.0).view(3, 4)
    prototypes = PackedPrototypes(values)
    for width in (2, 3, 3):
        rows = prototypes.finest(width)
        assert torch.equal(rows[:width], values[:, :width].T)
        assert torch.equal(rows[width], prototypes.offsets)
    assert (prototypes.finest(3) is rows) == bool(kept)


def test_packed_prototypes_are_made_once_a_codebook_and_dtype(book):
    first = packed_prototypes(book, LIKE)
    assert packed_prototypes(book, LIKE) is first
    assert packed_prototypes(copy.deepcopy(book), LIKE) is not first
    double = packed_prototypes(book, LIKE.double())
    assert double.values.dtype == torch.float64
    assert packed_prototypes(book, LIKE) is first


def test_packed_prototypes_follow_values_written_in_place(book):
    before = packed_prototypes(book, LIKE).offsets.clone()
    book.centroids.mul_(2)
    assert torch.allclose(packed_prototypes(book, LIKE).offsets, 4 * before)


def test_packed_prototypes_of_inference_tensors(book):
    with torch.inference_mode():
        inside = Codebook(book.centroids.clone(), book.membership, book.counts, book.spread)
    assert packed_prototypes(inside, LIKE) is packed_prototypes(inside, LIKE)


def test_packed_prototypes_leave_codebook_plain(book):
    before = len(pickle.dumps(book))
    packed_prototypes(book, LIKE).finest(4)
    assert len(pickle.dumps(book)) == before


def test_packed_prototypes_go_with_their_codebook(book):
    own = copy.copy(book)  # pytest holds the fixture itself
    kept = weakref.ref(packed_prototypes(own, LIKE))
    del own
    gc.collect()
    assert kept() is None
