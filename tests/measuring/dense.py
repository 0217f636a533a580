"""A dense Gaussian process with offsets, in NumPy: what the posterior is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from captum_kmex.measuring.posterior import Design

OFFSET, EXACT = 10.0, 1e-10


@dataclass(eq=False)
class Game:
    """What was measured of an image of P cells.

    Attributes:
        sums: Cells kept in each measurement (M, P).
        kinds: Its kind (M,), 0 or 1.
        kernel: The prior's covariance (P, P).
        mean: The prior's mean (P,).
        values: What was measured (M,).
        total: What the whole adds up to.
    """

    sums: np.ndarray
    kinds: np.ndarray
    kernel: np.ndarray
    mean: np.ndarray
    values: np.ndarray
    total: float

    def design(self) -> Design:
        kernel = torch.from_numpy(self.kernel)
        sums, kinds = torch.from_numpy(self.sums), torch.from_numpy(self.kinds)
        return Design(sums, kinds, lambda columns: kernel @ columns)

    def given(self) -> tuple[torch.Tensor, ...]:
        given = (self.mean, self.values, self.total)
        return tuple(torch.tensor(x, dtype=torch.float64) for x in given)

    @cached_property
    def prior(self) -> np.ndarray:
        """Covariance of the cells and of both offsets (P + 2, P + 2)."""
        cells = len(self.kernel)
        prior = np.zeros((cells + 2, cells + 2))
        prior[:cells, :cells], prior[cells:, cells:] = self.kernel, OFFSET * np.eye(2)
        return prior

    @cached_property
    def seen(self) -> np.ndarray:
        """What of them is observed (M + 1, P + 2)."""
        whole = np.append(np.ones(len(self.kernel)), [0, 0])
        return np.vstack([with_offsets(self.sums, self.kinds), whole])

    @cached_property
    def missed(self) -> np.ndarray:
        """What the prior's mean misses of what was observed (M + 1,)."""
        return np.append(self.values, self.total) - self.seen[:, :-2] @ self.mean

    @cached_property
    def across(self) -> np.ndarray:
        """Covariance of what is observed, without noise (M + 1, M + 1)."""
        return self.seen @ self.prior @ self.seen.T

    def system(self, noise: float) -> np.ndarray:
        variances = np.full(len(self.seen), noise)
        variances[-1] = EXACT * self.across[-1, -1]
        return self.across + np.diag(variances)

    def scale(self, noise: float) -> float:
        """Return the likeliest scale of the prior."""
        return self.missed @ np.linalg.solve(self.system(noise), self.missed) / len(self.missed)

    def likelihood(self, noise: float) -> float:
        determinant = np.linalg.slogdet(self.system(noise))[1]
        return -0.5 * len(self.missed) * np.log(self.scale(noise)) - 0.5 * determinant

    def known(self, columns: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
        """Return posterior mean (S,) and covariance of sums (S, P + 2) of cells and offsets."""
        cross = columns @ self.prior @ self.seen.T
        solved = np.linalg.solve(self.system(noise), np.column_stack([self.missed, cross.T]))
        mean = columns[:, :-2] @ self.mean + cross @ solved[:, 0]
        covariance = columns @ self.prior @ columns.T - cross @ solved[:, 1:]
        return mean, self.scale(noise) * covariance

    def predicted(
        self, kept: np.ndarray, kinds: np.ndarray, noise: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of other measurements, their noise included."""
        mean, covariance = self.known(with_offsets(kept, kinds), noise)
        return mean, np.sqrt(covariance.diagonal() + self.scale(noise) * noise)


def with_offsets(kept: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return sums over cells and the offset of their kind (M, P + 2)."""
    return np.hstack([kept, np.eye(2)[kinds]])
