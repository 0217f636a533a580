"""Class and out cosines against a loop, and phi = 1 where the map is the column."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_kmex.alignment import AlignmentSums, rescaled
from captum_kmex.model.head import LinearHead

MEMBERSHIP = torch.tensor([0, 2, 2, 0, 1])


def loop(rows, classes, prototypes, membership) -> tuple[float, float]:
    """Return class and out cosine, one embedding and one class at a time."""
    own, out = [], []
    for row, label in zip(rows, classes, strict=True):
        best = {}
        for p, c in zip(prototypes, membership, strict=True):
            cosine = float(row @ p / np.linalg.norm(row) / np.linalg.norm(p))
            best[c] = max(best.get(c, -1.0), cosine)
        own.append(best.pop(label))
        out.append(np.mean(list(best.values())))
    return float(np.mean(own)), float(np.mean(out))


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    prototypes = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    return rows, torch.arange(20) % 3, prototypes


@pytest.mark.parametrize("batch", [20, 3], ids=["one_batch", "streamed"])
def test_alignment_equals_loop(data, batch):
    rows, classes, prototypes = data
    sums = AlignmentSums(prototypes, MEMBERSHIP, 3)
    for part, labels in zip(rows.split(batch), classes.split(batch), strict=True):
        sums.add(part, labels)
    found = sums.result()
    expected = loop(rows.numpy(), classes.tolist(), prototypes.numpy(), MEMBERSHIP.tolist())
    assert (found.class_cosine, found.out_cosine) == pytest.approx(expected, abs=1e-12)
    assert found.n_images == 20


def test_alignment_leaves_out_classes_without_prototypes(data):
    rows, classes, prototypes = data
    sums = AlignmentSums(prototypes, torch.tensor([0, 2, 2, 0, 0]), 4)
    sums.add(rows, classes)
    kept = classes != 1
    found = sums.result()
    expected = loop(rows[kept].numpy(), classes[kept].tolist(), prototypes.numpy(), [0, 2, 2, 0, 0])
    assert (found.class_cosine, found.out_cosine) == pytest.approx(expected, abs=1e-12)
    assert found.n_images == int(kept.sum())


def test_alignment_of_prototypes_with_themselves_is_one():
    sums = AlignmentSums(torch.eye(3), torch.arange(3), 3)
    sums.add(7 * torch.eye(3), torch.arange(3))
    found = sums.result()
    assert (found.class_cosine, found.out_cosine) == (1.0, 0.0)


def test_alignment_raises_when_nothing_was_taken_in():
    with pytest.raises(ValueError, match="no image of a class with prototypes"):
        AlignmentSums(torch.eye(3), torch.arange(3), 3).result()


@pytest.fixture
def head() -> LinearHead:
    columns = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    return LinearHead(columns, torch.arange(4.0))


def test_alignment_map_is_one_where_map_equals_column(head):
    features = head.columns[:, :, None, None].expand(-1, -1, 3, 5)
    phi = head.alignment(features, torch.arange(4))
    assert torch.allclose(phi, torch.ones(4, 1, 3, 5), atol=1e-6)


def test_alignment_map_scales_with_the_map(head):
    features = torch.randn(4, 6, 3, 5, generator=torch.Generator().manual_seed(1))
    once, twice = (head.alignment(scale * features, torch.arange(4)) for scale in (1, 2))
    assert torch.allclose(twice, 2 * once)


def test_alignment_map_of_position_wise_columns_is_one_at_each_column():
    columns = torch.randn(4, 6, 3, 5, generator=torch.Generator().manual_seed(0))
    phi = LinearHead(columns, torch.zeros(4)).alignment(columns, torch.arange(4))
    assert torch.allclose(phi, torch.ones(4, 1, 3, 5), atol=1e-6)


def test_alignment_map_of_zero_column_is_finite():
    phi = LinearHead(torch.zeros(1, 3), torch.zeros(1)).alignment(
        torch.zeros(1, 3, 2, 2), torch.tensor([0])
    )
    assert torch.equal(phi, torch.zeros(1, 1, 2, 2))


def test_rescaled_prototypes_have_the_length_of_their_class():
    generator = torch.Generator().manual_seed(0)
    rows, labels = torch.rand(30, 5, generator=generator), torch.arange(30) % 3
    raw, membership = torch.randn(4, 5, generator=generator), torch.tensor([0, 2, 1, 2])
    found = rescaled(raw, membership, rows, labels)
    for vector, old, c in zip(found, raw, membership, strict=True):
        assert vector.norm().item() == pytest.approx(rows[labels == c].norm(dim=1).mean().item())
        assert torch.cosine_similarity(vector, old, dim=0).item() == pytest.approx(1)
