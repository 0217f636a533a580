"""Non-negative matrix factorisation of activations: A (M, D) = codes U (M, K) times V (K, D)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from sklearn.decomposition import non_negative_factorization
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks.quality.method import UnavailableError

__all__ = ["codes_of", "factorise", "map_codes"]


def factorise(rows: Tensor, rank: int, seed: int, max_iter: int = 200) -> Tensor:
    """Return V (K, D) of unit rows that minimises ``||A - U V||^2`` over U, V >= 0.

    Rows of unit length make the codes of different concepts comparable. A concept that the
    solver leaves empty stays zero.

    Args:
        rows: Activations A (M, D), not negative.
        rank: Number of concepts K, no more than M and D.
        seed: Seed of the solver's start.
        max_iter: Sweeps of the coordinate descent.

    Raises:
        UnavailableError: The activations are negative somewhere.
    """
    if rows.min() < 0:
        raise UnavailableError("needs activations that are not negative (ReLU before pooling)")
    with _bounded():
        _, found, _ = non_negative_factorization(
            rows.numpy(), n_components=rank, init="nndsvda", max_iter=max_iter, random_state=seed
        )
    return torch.nn.functional.normalize(torch.from_numpy(found).to(rows.dtype), dim=1)


def codes_of(rows: Tensor, components: Tensor) -> Tensor:
    """Return U (M, K) that minimises ``||A - U V||^2`` over U >= 0, for V given.

    Args:
        rows: Activations A (M, D).
        components: V (K, D), not negative.
    """
    with _bounded():
        found, _, _ = non_negative_factorization(
            rows.clamp_min(0).numpy(),
            H=components.numpy(),
            n_components=len(components),
            update_H=False,
            init="custom",
            tol=1e-6,
            max_iter=500,
        )
    return torch.from_numpy(found).to(rows.dtype)


def map_codes(features: Tensor, components: Tensor) -> Tensor:
    """Return the codes (N, K, h, w) of every position of a map (N, D, h, w)."""
    n, _, height, width = features.shape
    found = codes_of(features.movedim(1, 3).flatten(0, 2), components)
    return found.view(n, height, width, -1).movedim(3, 1)


@contextmanager
def _bounded() -> Iterator[None]:
    """One thread, for such small products wait longer for the others; the bound on sweeps holds."""
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
