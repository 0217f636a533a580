"""k-means against scikit-learn, by hand, and in degenerate cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, make_blobs
from sklearn.metrics import adjusted_rand_score
from torch.utils._python_dispatch import TorchDispatchMode

from captum_kmex.clustering.kmeans import kmeans, kmeans_by_class
from captum_kmex.clustering.lloyd import lloyd
from captum_kmex.clustering.problem import Problem

# three well-separated triples: the centroids are their middles, the inertia 3 * (1 + 0 + 1)
NINE = torch.tensor([[x, y] for y in (0.0, 100.0, 200.0) for x in (-1.0, 0.0, 1.0)])


def slow(value: int) -> object:
    return pytest.param(value, marks=pytest.mark.slow)


def sklearn_inertia(rows: np.ndarray, k: int, seed: int = 0) -> float:
    return float(KMeans(k, n_init=10, random_state=seed).fit(rows).inertia_)


def inertia(rows: torch.Tensor, centroids: torch.Tensor) -> float:
    return float(torch.cdist(rows.double(), centroids.double()).amin(1).square().sum())


@pytest.mark.parametrize("k", [slow(3), slow(5), 10, slow(20)])
def test_kmeans_inertia_is_within_one_percent_of_sklearn_on_digits(k):
    rows = load_digits().data.astype(np.float32)
    # medians: at k=20 scikit-learn's own results for different seeds are 1.5 % apart
    ours = [kmeans(torch.from_numpy(rows), k, generator=seed).inertia for seed in range(3)]
    theirs = [sklearn_inertia(rows, k, seed) for seed in range(3)]
    assert np.median(ours) <= 1.01 * np.median(theirs)


def test_kmeans_inertia_is_within_one_percent_of_sklearn_on_blobs():
    rows, _ = make_blobs(3000, 6, centers=12, random_state=3)
    found = kmeans(torch.from_numpy(rows), 12, generator=0)
    assert found.inertia <= 1.01 * sklearn_inertia(rows, 12)


def test_kmeans_solves_nine_points():
    found = kmeans(NINE, 3)
    assert sorted(found.centroids.tolist()) == [[0.0, 0.0], [0.0, 100.0], [0.0, 200.0]]
    assert found.inertia == pytest.approx(6, abs=1e-3)  # rows of size 100: eps * 1e4 each


def test_kmeans_labels_name_nearest_centroid():
    rows = torch.from_numpy(load_digits().data[:300])
    found = kmeans(rows, 7, generator=1)
    assert torch.equal(found.labels, torch.cdist(rows, found.centroids).argmin(1))


def test_kmeans_inertia_is_sum_of_squared_distances():
    rows = torch.from_numpy(load_digits().data[:300])
    found = kmeans(rows, 7, generator=1)
    assert found.inertia == pytest.approx(inertia(rows, found.centroids), rel=1e-10)


def test_kmeans_centroids_are_means_of_their_rows():
    rows = torch.from_numpy(load_digits().data[:300])
    found = kmeans(rows, 4, tol=0, max_iter=300)
    for k in range(4):
        mean = rows[found.labels == k].mean(0)
        assert torch.allclose(found.centroids[k], mean, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_kmeans_with_one_cluster_is_the_mean(dtype):
    rows = torch.from_numpy(load_digits().data).to(dtype)
    found = kmeans(rows, 1)
    assert found.centroids.dtype == dtype
    assert torch.allclose(found.centroids[0], rows.mean(0), atol=1e-4)
    assert found.labels.unique().tolist() == [0]


def test_kmeans_with_as_many_clusters_as_rows_has_no_inertia():
    found = kmeans(NINE, 9)
    assert sorted(found.labels.tolist()) == list(range(9))
    assert found.inertia == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_kmeans_of_identical_rows_is_that_row(k):
    found = kmeans(torch.full((20, 4), 2.5), k)
    assert torch.equal(found.centroids, torch.full((k, 4), 2.5))
    assert found.inertia == 0


def test_kmeans_with_fewer_distinct_rows_than_clusters_stays_finite():
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).repeat(8, 1)
    found = kmeans(rows, 5)
    assert torch.isfinite(found.centroids).all()
    assert found.inertia == pytest.approx(0, abs=1e-6)


def test_lloyd_revives_empty_cluster_with_farthest_row():
    rows = torch.tensor([[0.0], [1.0], [10.0]])
    centroids, _ = lloyd(rows, torch.tensor([[[0.5], [100.0]]]), 1, 0.0)
    assert centroids.squeeze().tolist() == [pytest.approx(11 / 3), 10.0]


def test_lloyd_gives_two_empty_clusters_different_rows():
    rows = torch.tensor([[0.0], [1.0], [10.0], [8.0]])
    starts = torch.tensor([[[0.5], [100.0], [200.0]]])
    centroids, _ = lloyd(rows, starts, 1, 0.0)
    assert centroids[0, 1:].flatten().tolist() == [10.0, 8.0]


def test_lloyd_runs_each_start_alone():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    starts = rows[:12].view(3, 4, 2)
    together, _ = lloyd(rows, starts, 6, -1.0)
    for i in range(3):
        alone, _ = lloyd(rows, starts[i : i + 1], 6, -1.0)
        assert torch.allclose(together[i], alone[0], atol=1e-12)


def test_kmeans_by_class_solves_each_class_as_if_alone():
    generator = torch.Generator().manual_seed(3)
    sizes, counts = [40, 700, 13, 90], [3, 3, 2, 2]
    samples = [torch.randn(size, 6, generator=generator) for size in sizes]
    together = list(kmeans_by_class(samples, counts, generator=5))
    for rows, k, found in zip(samples, counts, together, strict=True):
        alone = kmeans(rows, k, generator=5)
        assert torch.equal(found.labels, alone.labels)
        torch.testing.assert_close(found.centroids, alone.centroids)


def test_kmeans_by_class_in_small_groups_changes_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(4)
    samples = [torch.randn(30 + i, 5, generator=generator) for i in range(7)]
    together = list(kmeans_by_class(samples, [4] * 7))
    monkeypatch.setattr("captum_kmex.clustering.kmeans._PROBLEM_FLOATS", 1)
    for found, other in zip(together, kmeans_by_class(samples, [4] * 7), strict=True):
        assert torch.equal(found.labels, other.labels)


def test_kmeans_does_not_miss_rare_far_rows():
    """A uniform part of the rows would miss most of them: 1.11 of scikit-learn's inertia."""
    rows = torch.from_numpy(np.random.default_rng(0).standard_t(2.2, (5000, 32))).float()
    ratio = kmeans(rows, 5).inertia / sklearn_inertia(rows.numpy(), 5)
    assert ratio <= 1.01


def test_kmeans_repeats_itself_for_a_seed():
    rows = torch.from_numpy(load_digits().data[:400]).float()
    first, second = kmeans(rows, 8, generator=7), kmeans(rows, 8, generator=7)
    assert torch.equal(first.centroids, second.centroids)
    assert torch.equal(first.labels, second.labels)


def test_kmeans_takes_a_generator_as_its_seed():
    rows = torch.from_numpy(load_digits().data[:400]).float()
    given = kmeans(rows, 8, generator=torch.Generator().manual_seed(7))
    assert torch.equal(given.centroids, kmeans(rows, 8, generator=7).centroids)


def test_kmeans_leaves_global_rng_untouched():
    before = torch.get_rng_state()
    kmeans(NINE, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_kmeans_keeps_digits_far_from_origin():
    rows, _ = make_blobs(300, 2, centers=3, cluster_std=0.1, random_state=0)
    far = torch.from_numpy(rows).float() + 1e4
    found = kmeans(far, 3)
    # the offset itself costs eps * 1e4 = 1e-3 a coordinate, the blobs are 0.1 wide
    assert found.inertia == pytest.approx(sklearn_inertia(rows, 3), rel=0.02)


@pytest.mark.parametrize("k", [0, -1, 10], ids=["zero", "negative", "more_than_rows"])
def test_kmeans_raises_when_clusters_do_not_fit_rows(k):
    with pytest.raises(ValueError, match=f"n_samples=9 should be >= n_clusters={k} >= 1"):
        kmeans(NINE, k)


def test_kmeans_with_integer_weights_equals_repeated_rows():
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    weights = torch.randint(1, 4, (60,), generator=generator)
    found = kmeans(rows, 3, weights=weights, n_init=30)
    repeated = kmeans(rows.repeat_interleave(weights, 0), 3, n_init=30)
    assert found.inertia == pytest.approx(repeated.inertia, rel=1e-9)
    assert torch.allclose(found.centroids, repeated.centroids)


def test_kmeans_of_many_weighted_rows_matches_weighted_sklearn():
    rows, _ = make_blobs(2000, 6, centers=12, random_state=3)
    weights = np.random.default_rng(0).uniform(0.1, 4, 2000)
    theirs = KMeans(12, n_init=10, random_state=0).fit(rows, sample_weight=weights)
    found = kmeans(torch.from_numpy(rows), 12, weights=torch.from_numpy(weights))
    assert found.inertia <= 1.01 * theirs.inertia_
    nearest = torch.cdist(torch.from_numpy(rows), found.centroids).amin(1).square()
    assert found.inertia == pytest.approx(float(nearest @ torch.from_numpy(weights)), rel=1e-9)


def test_kmeans_orders_clusters_by_their_weight():
    weights = torch.tensor([1.0, 1, 1, 5, 5, 5, 3, 3, 3])
    assert kmeans(NINE, 3, weights=weights).centroids[:, 1].tolist() == [100.0, 200.0, 0.0]


def large_rows(seed: int) -> torch.Tensor:
    """Rows without clear clusters, of which k-means has many solutions nearly as good."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(4000, 12, generator=generator) ** 2
    return rows / rows.norm(dim=1, keepdim=True)


def test_kmeans_of_a_large_class_agrees_between_seeds():
    """The best of twenty starts on one part agreed at 0.67 on this."""
    rows = large_rows(0) * torch.linspace(1, 4, 12)
    found = [kmeans(rows, 5, generator=seed).labels for seed in range(4)]
    pairs = [adjusted_rand_score(a, b) for i, a in enumerate(found) for b in found[:i]]
    assert np.mean(pairs) > 0.9


def test_kmeans_of_a_large_class_in_small_groups_of_parts_changes_nothing(monkeypatch):
    rows = large_rows(1)
    whole = kmeans(rows, 4)
    monkeypatch.setattr("captum_kmex.clustering.kmeans._PROBLEM_FLOATS", 1)
    assert torch.equal(kmeans(rows, 4).labels, whole.labels)


def test_parts_stand_for_all_rows():
    rows = large_rows(2)
    weights = torch.linspace(1, 3, 4000)
    problem = Problem.of(rows, weights, 5)
    drawn, masses = problem.parts(40, 320, seed=0)
    assert drawn.shape == masses.shape == (40, 320)
    # 12,800 draws: means over them are known to about a hundredth
    assert torch.allclose(masses.sum(1).mean(), weights.sum(), rtol=0.02)
    mean = (masses.flatten() @ rows[drawn.flatten()]) / masses.sum()
    assert torch.allclose(mean, weights @ rows / weights.sum(), atol=0.01)


def test_parts_take_rare_far_rows():
    rows = torch.cat([large_rows(3), 50 + torch.zeros(4, 12)])
    drawn, _ = Problem.of(rows, None, 5).parts(20, 320, seed=0)
    assert ((drawn >= 4000).sum(1) > 100).all()


class LargestTensor(TorchDispatchMode):
    """Notes the most bytes that one operation returned."""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(tensor, torch.Tensor) and tensor._base is None:
                self.nbytes = max(self.nbytes, tensor.untyped_storage().nbytes())
        return found


def rectified(m: int, d: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(m, 12)) @ generator.normal(size=(12, d))
    return np.maximum(rows, 0).astype(np.float32)


def blobs(m: int, k: int, d: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    centres = 4 * generator.normal(size=(k, d))
    return (centres[generator.integers(0, k, m)] + generator.normal(size=(m, d))).astype(np.float32)


@pytest.mark.parametrize("budget", [2**24, 2**31])
@pytest.mark.parametrize(("k", "m"), [(40, 2560), (100, 3000), (300, 3000), (1000, 2000)])
@pytest.mark.slow
def test_kmeans_of_many_clusters_stays_within_the_memory_budget(k, m, budget):
    rows = torch.from_numpy(rectified(m, 6))
    with LargestTensor() as largest:
        found = kmeans(rows, k, n_init=1, max_iter=2, memory_budget=budget)
    assert largest.nbytes <= min(budget, 2**28)
    assert len(found.centroids) == k


@pytest.mark.parametrize("k", [100, slow(300), slow(1000)])
@pytest.mark.parametrize("kind", ["rectified", "blobs"])
@pytest.mark.slow
def test_kmeans_of_many_clusters_is_as_good_as_sklearn(k, kind):
    rows = rectified(4000, 8) if kind == "rectified" else blobs(4000, k, 8)
    found = kmeans(torch.from_numpy(rows), k, memory_budget=2**25)
    theirs = KMeans(k, n_init=1, random_state=0).fit(rows).inertia_
    assert found.inertia <= 1.02 * theirs
    assert found.inertia == pytest.approx(
        inertia(torch.from_numpy(rows), found.centroids), rel=1e-3
    )
    again = kmeans(torch.from_numpy(rows), k, memory_budget=2**25)
    assert torch.equal(found.centroids, again.centroids)
    assert torch.equal(found.labels, again.labels)


@pytest.mark.parametrize(("k", "m"), [(3, 300), (20, 1400)])
def test_memory_budget_changes_nothing_for_few_clusters(k, m):
    rows = torch.from_numpy(rectified(m, 6))
    found, other = (kmeans(rows, k, n_init=2, memory_budget=size) for size in (2**20, 2**31))
    assert torch.equal(found.centroids, other.centroids)
    assert torch.equal(found.labels, other.labels)


@pytest.mark.parametrize("k", [80, 300])
def test_many_clusters_of_weighted_rows_are_those_of_repeated_ones(k):
    rows = torch.from_numpy(rectified(1500, 6))
    weights = 1.0 + torch.arange(1500) % 3
    repeated = rows.repeat_interleave(weights.long(), 0)
    found = kmeans(rows, k, weights=weights, n_init=3, memory_budget=2**22)
    other = kmeans(repeated, k, n_init=3, memory_budget=2**22)
    assert found.inertia == pytest.approx(other.inertia, rel=0.03)
    assert inertia(repeated, found.centroids) == pytest.approx(found.inertia, rel=1e-3)


def test_many_clusters_of_few_distinct_rows_stay_finite():
    rows = torch.eye(5).repeat(100, 1)
    found = kmeans(rows, 200, memory_budget=2**22)
    assert torch.isfinite(found.centroids).all()
    assert found.inertia == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("gain", [0.1, 0.01, 0.001])
def test_steps_end_with_the_first_that_gains_too_little(gain: float, is_weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(600, 5, generator=generator, dtype=torch.float64)
    mass = torch.rand(600, generator=generator, dtype=torch.float64) if is_weighted else None
    start = rows[:40][None]

    def after(steps: int) -> float:
        centroids = lloyd(rows, start, steps, 0.0, mass)[0][0] if steps else start[0]
        nearest = ((rows[:, None].numpy() - centroids.numpy()) ** 2).sum(2).min(1)
        return float((nearest * (1.0 if mass is None else mass.numpy())).sum())

    found, n_iter = lloyd(rows, start, 100, 0.0, mass, least_gain=gain)
    inertias = [after(steps) for steps in range(n_iter)]
    gains = [(a - b) / b for a, b in itertools.pairwise(inertias)]
    assert 2 <= n_iter < 100
    assert min(gains[:-1], default=1.0) > gain >= gains[-1]
    torch.testing.assert_close(found, lloyd(rows, start, n_iter, 0.0, mass)[0])
