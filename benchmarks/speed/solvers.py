"""k-means of many classes by each library: rows in, centroids of each class out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans

from benchmarks.speed.mixtures import Rows
from captum_kmex.clustering.kmeans import kmeans_by_class

__all__ = ["SOLVERS", "Solver", "faiss_all_rows", "inertia", "lloyd_once", "ours"]

Solver = Callable[[Sequence[Rows], int], list[Rows]]


def ours(samples: Sequence[Rows], k: int, n_init: int = 10) -> list[Rows]:
    """Solve all classes together, ten starts each unless told otherwise."""
    rows = [torch.from_numpy(sample) for sample in samples]
    solved = kmeans_by_class(rows, [k] * len(rows), n_init=n_init, generator=0)
    return [found.centroids.numpy() for found in solved]


def lloyd_once(samples: Sequence[Rows], k: int) -> list[Rows]:
    """Solve class by class with scikit-learn, one k-means++ start: its present default."""
    return [_scikit(rows, k, 1) for rows in samples]


def lloyd_ten_times(samples: Sequence[Rows], k: int) -> list[Rows]:
    """Solve class by class with scikit-learn, ten starts: its default before 1.4."""
    return [_scikit(rows, k, 10) for rows in samples]


def minibatch(samples: Sequence[Rows], k: int) -> list[Rows]:
    """Solve class by class with scikit-learn's mini-batch k-means."""
    return [
        MiniBatchKMeans(k, n_init="auto", random_state=0).fit(rows).cluster_centers_
        for rows in samples
    ]


def faiss_random(samples: Sequence[Rows], k: int) -> list[Rows]:
    """Solve class by class with faiss at its defaults: 25 steps from random rows."""
    return [_faiss(rows, k, "RANDOM") for rows in samples]


def faiss_plus_plus(samples: Sequence[Rows], k: int) -> list[Rows]:
    """Solve class by class with faiss, 25 steps from a k-means++ start."""
    return [_faiss(rows, k, "KMEANS_PLUS_PLUS") for rows in samples]


def faiss_all_rows(samples: Sequence[Rows], k: int) -> list[Rows]:
    """Solve as ``faiss_plus_plus``, but on every row; by default 256 a cluster are enough."""
    return [_faiss(rows, k, "KMEANS_PLUS_PLUS", most=len(rows)) for rows in samples]


SOLVERS: dict[str, Solver] = {
    "scikit-learn Lloyd, n_init=1, against itself": lloyd_once,
    "scikit-learn Lloyd, n_init=10": lloyd_ten_times,
    "scikit-learn MiniBatchKMeans": minibatch,
    "faiss, random start": faiss_random,
    "faiss, k-means++ start": faiss_plus_plus,
    "faiss, k-means++ start, all rows": faiss_all_rows,
    "ours, n_init=1": partial(ours, n_init=1),
    "ours, n_init=10": ours,
}


def inertia(rows: Rows, centroids: Rows) -> float:
    """Return the sum of squared distances to the nearest centroid, in float64."""
    total = 0.0
    centres = torch.from_numpy(np.asarray(centroids)).double()
    for part in torch.from_numpy(rows).split(8192):
        mode = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(part.double(), centres, compute_mode=mode)
        total += float(distances.amin(1).square().sum())
    return total


def _scikit(rows: Rows, k: int, n_init: int) -> Rows:
    centres: Rows = KMeans(k, n_init=n_init, random_state=0).fit(rows).cluster_centers_
    return centres


def _faiss(rows: Rows, k: int, start: str, most: int = 256) -> Rows:
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    method = getattr(faiss, f"ClusteringInitMethod_{start}", None)
    if method is None:
        pytest.skip(f"not available: this faiss has no start {start}")
    faiss.omp_set_num_threads(1)
    solver = faiss.Kmeans(rows.shape[1], k, seed=1, init_method=method)
    solver.cp.min_points_per_centroid = 1  # only silences a warning of few rows
    solver.cp.max_points_per_centroid = most
    solver.train(rows)
    centres: Rows = solver.centroids
    return centres
