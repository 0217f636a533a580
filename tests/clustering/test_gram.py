from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_kmex.clustering.gram import gram_kmeans, start_uniforms


def uniforms(k: int, starts: int = 4) -> torch.Tensor:
    return start_uniforms(k, starts, torch.Generator().manual_seed(0))


def problem(seed: int, rows: int = 40, width: int = 3) -> torch.Tensor:
    centres = 4 * torch.randn(4, width, generator=torch.Generator().manual_seed(seed)).double()
    noise = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed + 1)).double()
    return centres[torch.arange(rows) % 4] + noise


def gram_of(rows: torch.Tensor) -> torch.Tensor:
    return (rows @ rows.T)[None]


def means(rows: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> list[np.ndarray | None]:
    found = []
    for k in range(labels.max() + 1):
        own = labels == k
        mass = weights[own].sum()
        found.append((rows[own] * weights[own, None]).sum(0) / mass if mass else None)
    return found


@pytest.mark.parametrize("weighted", [False, True], ids=["uniform", "weighted"])
def test_labels_are_a_fixed_point_of_lloyd_and_inertia_is_theirs(weighted):
    rows = problem(0)
    weights = torch.linspace(0.2, 3, 40).double() if weighted else torch.ones(40).double()
    labels, inertias = gram_kmeans(gram_of(rows), weights[None], uniforms(4))
    x, w = rows.numpy(), weights.numpy()
    for start in range(4):
        own = labels[0, start].numpy()
        centroids = means(x, own, w)
        distances = np.stack([((x - c) ** 2).sum(1) for c in centroids])
        np.testing.assert_array_equal(distances.argmin(0), own)
        assert (distances.min(0) * w).sum() == pytest.approx(float(inertias[0, start]))


def test_a_problem_does_not_depend_on_the_ones_beside_it():
    first, second = problem(1), problem(2, rows=25)
    padded = torch.zeros(40, 3).double()
    padded[:25] = second
    grams = torch.stack([gram_of(first)[0], gram_of(padded)[0]])
    weights = torch.ones(2, 40).double()
    weights[1, 25:] = 0
    labels, inertias = gram_kmeans(grams, weights, uniforms(3))
    for rows, i in ((first, 0), (second, 1)):
        alone, inertia = gram_kmeans(gram_of(rows), torch.ones(1, len(rows)).double(), uniforms(3))
        assert torch.equal(labels[i, :, : len(rows)], alone[0])
        torch.testing.assert_close(inertias[i], inertia[0])


def test_an_integer_weight_is_a_repeated_row():
    rows = problem(3, rows=12)
    weights = torch.tensor([1.0, 2, 3] * 4).double()
    repeated = rows.repeat_interleave(weights.long(), 0)
    _, ours = gram_kmeans(gram_of(rows), weights[None], uniforms(2, 30))
    ones = torch.ones(1, len(repeated)).double()
    _, theirs = gram_kmeans(gram_of(repeated), ones, uniforms(2, 30))
    assert float(ours.min()) == pytest.approx(float(theirs.min()))


def test_rows_without_weight_are_never_seeds():
    rows = torch.tensor([[0.0], [1.0], [1000.0]]).double()
    labels, inertias = gram_kmeans(
        gram_of(rows), torch.tensor([[1.0, 1.0, 0.0]]).double(), uniforms(2, 9)
    )
    assert (labels[0, :, 0] != labels[0, :, 1]).all()
    torch.testing.assert_close(inertias, torch.zeros(1, 9).double(), atol=1e-9, rtol=0)


def test_equal_rows_give_zero_inertia():
    _, inertias = gram_kmeans(torch.ones(1, 6, 6), torch.ones(1, 6), uniforms(3))
    assert torch.equal(inertias, torch.zeros(1, 4))
