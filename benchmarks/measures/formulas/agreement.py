"""How alike two explanations of the same images are."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from benchmarks.quality.method import Prototypes

__all__ = ["map_correlation", "matched_cosine", "rand_index"]


def rand_index(one: Tensor, other: Tensor) -> Tensor:
    """Return the adjusted Rand index (n,) of two segmentations (n, h, w).

    Reference:
        Hubert & Arabie, "Comparing partitions" (1985).
    """
    pairs = zip(one.flatten(1).numpy(), other.flatten(1).numpy(), strict=True)
    return torch.tensor([adjusted_rand_score(a, b) for a, b in pairs])


def map_correlation(one: Tensor, other: Tensor) -> Tensor:
    """Return the Pearson correlation (n,) of maps (n, h, w), NaN where one is constant."""
    a, b = (
        m.flatten(1).double() - m.flatten(1).double().mean(1, keepdim=True) for m in (one, other)
    )
    is_flat = (a == 0).all(1) | (b == 0).all(1)
    return cosine_similarity(a, b, eps=1e-30).masked_fill(is_flat, torch.nan)


def matched_cosine(one: Prototypes, other: Prototypes) -> Tensor:
    """Return the mean cosine of prototypes paired within classes, so that it is greatest: ().

    Reference:
        Kuhn, "The Hungarian method for the assignment problem" (1955).
    """
    found = []
    for c in one.classes.unique():
        a, b = (normalize(p.vectors[p.classes == c].double(), dim=1) for p in (one, other))
        cosines = a @ b.T
        rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
        found.append(cosines[rows, columns])
    return torch.cat(found).mean()
