"""Ways to cluster a stream, centroids of each class, and the best on all rows in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans

from benchmarks.speed.mixtures import Rows
from benchmarks.speed.solvers import inertia
from benchmarks.speed.streams import Stream
from captum_kmex import KMExAttribution, LayerKMeansAttribution
from captum_kmex.attributions.fitted_attribution import FittedAttribution
from captum_kmex.clustering.kmeans import kmeans
from captum_kmex.fitting.sample import SLACK

__all__ = [
    "OnePass",
    "all_rows",
    "all_rows_once",
    "best_inertia",
    "our_fit",
    "partial_fits",
    "whole_images",
]

OnePass = Callable[[Stream, int, int], list[Rows]]  # stream, K, seed -> centroids of each class


def all_rows(stream: Stream, k: int, seed: int) -> list[Rows]:
    """Solve on every row from one k-means++ start: what a bounded memory is compared with."""
    return [
        KMeans(k, n_init=1, random_state=seed).fit(stream.rows(c)).cluster_centers_
        for c in range(stream.classes)
    ]


all_rows_once = lru_cache(all_rows)


def best_inertia(stream: Stream, k: int, seeds: int) -> list[float]:
    """Return each class's least inertia over runs of k-means on all rows, one a seed."""
    solved = [all_rows_once(stream, k, seed) for seed in range(seeds)]
    return [
        min(inertia(stream.rows(c), found[c]) for found in solved) for c in range(stream.classes)
    ]


def our_fit(stream: Stream, k: int, seed: int, rows: int, refine: int = 0) -> list[Rows]:
    """Fit an attribution with memory for so many rows of each class.

    Args:
        stream: The data.
        k: Prototypes of each class.
        seed: Seed of sample and k-means.
        rows: Rows kept of each class.
        refine: Further passes over all rows.
    """
    model, width = stream.model, stream.features.shape[1]
    is_pooled = stream.features.shape[2:] == (1, 1)
    attribution: FittedAttribution
    if is_pooled:
        attribution = KMExAttribution(model, "0", n_prototypes=k, seed=seed)
    else:
        attribution = LayerKMeansAttribution(model, ["0"], n_prototypes=k, seed=seed)
    budget = int(rows * SLACK * 4 * width * stream.classes) + 1
    attribution.fit(stream, n_representatives=0, memory_budget=budget, refine=refine)
    book = attribution.bank_.codebooks[0]
    return [book.centroids[book.of_class(c)].numpy() for c in range(stream.classes)]


def whole_images(stream: Stream, k: int, seed: int, rows: int) -> list[Rows]:
    """Solve on all rows of some images, which is what a subset of the data gives."""
    generator, found = np.random.default_rng(seed), []
    for c in range(stream.classes):
        images = stream.images(c)
        count = -(-rows // images.shape[1])
        chosen = images[generator.permutation(len(images))[:count]]
        sample = torch.from_numpy(chosen.reshape(-1, images.shape[2])[:rows])
        found.append(kmeans(sample, k, n_init=10, generator=seed).centroids.numpy())
    return found


def partial_fits(stream: Stream, k: int, seed: int) -> list[Rows]:
    """Feed scikit-learn's ``MiniBatchKMeans`` once with all batches."""
    solvers = [MiniBatchKMeans(k, n_init="auto", random_state=seed) for _ in range(stream.classes)]
    for features, labels in stream:
        for c, solver in enumerate(solvers):
            rows = features[labels == c].permute(0, 2, 3, 1).flatten(0, 2)
            if len(rows) >= k:
                solver.partial_fit(rows.numpy())
    return [solver.cluster_centers_ for solver in solvers]
