"""What unsettles the segments of a fit: other rows, other starts, other solvers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from benchmarks.surrogate.features import N_ROWS, Features, distances
from captum_kmex.clustering.kmeans import kmeans_by_class

__all__ = ["N_AGREED", "agreement", "solve", "study_seeds"]

N_AGREED = 200  # images whose segments are compared


def solve(rows: Sequence[Tensor], k: int, seed: int, solver: str = "consensus") -> Tensor:
    """Return prototypes (C, K, D) of each class's rows: ours, or scikit-learn's."""
    if solver == "consensus":
        found = kmeans_by_class(rows, [k] * len(rows), generator=seed)
        return torch.stack([result.centroids for result in found])
    solved = [KMeans(k, n_init=10, random_state=seed).fit(own.numpy()) for own in rows]
    return torch.stack([torch.from_numpy(model.cluster_centers_) for model in solved])


@dataclass(frozen=True)
class Change:
    """What differs between the fits that are compared: seeds of the rows and of the starts."""

    title: str
    solver: str = "consensus"
    rows: bool = True
    starts: bool = True
    count: int = N_ROWS
    k: int = 5


CHANGES = (
    Change("best of ten starts (scikit-learn)", "sklearn"),
    Change("the same, other rows alone", "sklearn", starts=False),
    Change("the same, other starts alone", "sklearn", rows=False),
    Change("consensus"),
    Change("the same, other rows alone", starts=False),
    Change("the same, other starts alone", rows=False),
    Change("consensus, 20,000 rows a class", count=20_000),
    Change("consensus, K = 2", k=2),
    Change("consensus, K = 3", k=3),
    Change("consensus, K = 10", k=10),
)


def study_seeds(
    task: str, train: Features, held: Features, n_seeds: int
) -> list[dict[str, object]]:
    """Compare the B234 segments of fits that differ in one thing, all pairs of seeds."""
    found = []
    for change in CHANGES:
        labels, hits = [], []
        for seed in range(n_seeds):
            rows = train.sample(0, "balanced", change.count, seed if change.rows else 0)
            prototypes = solve(rows, change.k, seed if change.starts else 0, change.solver)
            pairs = list(distances(held, 0, "balanced", prototypes, N_AGREED))
            labels.append(torch.cat([d.flatten(1, 2).argmin(1) for d, _ in pairs]))
            votes = torch.cat([(d.amin(2) + 1e-4).log().mean(2).argmin(1) for d, _ in pairs])
            hits.append(float((votes == held.labels[: len(votes)]).double().mean()))
        found.append(
            {"task": task, **asdict(change), "accuracy": sum(hits) / len(hits)}
            | agreement(labels, change.k)
        )
    return found


def agreement(labels: Sequence[Tensor], k: int) -> dict[str, float]:
    """Return adjusted Rand indices of segments (n, P), over pairs of fits.

    Args:
        labels: Index tensor (n, P) of nearest prototypes, one a fit.
        k: Prototypes a class.
    """
    pairs = list(combinations([x.numpy() for x in labels], 2))
    each = [[adjusted_rand_score(*p) for p in zip(a, b, strict=True)] for a, b in pairs]
    return {
        "images": sum(map(sum, each)) / sum(map(len, each)),
        "least": min(sum(values) / len(values) for values in each),
        "all": _mean([adjusted_rand_score(a.ravel(), b.ravel()) for a, b in pairs]),
        "classes": _mean([adjusted_rand_score(a.ravel() // k, b.ravel() // k) for a, b in pairs]),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
