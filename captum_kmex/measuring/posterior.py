"""The map that explains what was measured: posterior mean of a Gaussian process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Design", "Posterior"]

_OFFSET = 10.0  # variance of the offsets: as good as free
_EXACT = 1e-10  # of its variance: what the whole adds up to is no measurement


class Design:
    """What was measured of an image, whatever was asked.

    A measurement is the sum of the evidence kept, plus an offset that all measurements of a kind
    share (parts act together: removed ones add up to another total than kept ones), plus noise.
    The evidence of all cells adds up exactly to what the image has more than its baseline.
    Variances are in units of the prior's scale, which the measurements themselves tell.

    Args:
        kept: Cells kept in each measurement (M, P), double.
        kinds: Its kind (M,).
        kernel: Gives the prior's covariance of cells times columns, (P, M) -> (P, M).
    """

    def __init__(self, kept: Tensor, kinds: Tensor, kernel: Callable[[Tensor], Tensor]) -> None:
        self._sums = torch.cat([kept, torch.ones_like(kept[:1])])
        self._kinds = kinds
        self._spread = kernel(self._sums.T)
        self.covariance = self._sums @ self._spread

    def posterior(
        self, mean: Tensor, values: Tensor, total: Tensor, noises: Sequence[float]
    ) -> Posterior:
        """Return what is known once measured.

        Args:
            mean: Prior mean (P,), which adds up to ``total``.
            values: What each measurement has more than the baseline (M,).
            total: What the image has more than the baseline ().
            noises: Variances of the noise, of which the likeliest is taken. Where evidence does
                add up it is the least, and what was measured of parts is exact.
        """
        missed = torch.cat([values, total[None]]) - self._sums @ mean
        fits = [self._fit(missed, noise) for noise in noises]
        _, weights, scale, factor = max(fits, key=lambda fit: fit[0])
        found = mean + self._spread @ weights
        return Posterior(found + (total - found.sum()) / len(found), scale, self, factor)

    def _fit(self, missed: Tensor, noise: float) -> tuple[float, Tensor, Tensor, Tensor]:
        """Return log likelihood, weights, scale and factor for one variance of the noise."""
        factor = torch.linalg.cholesky(self._system(noise))
        weights = torch.cholesky_solve(missed[:, None], factor)[:, 0]
        scale = (missed @ weights).clamp_min(torch.finfo(missed.dtype).tiny) / len(missed)
        likelihood = -0.5 * len(missed) * scale.log() - factor.diagonal().log().sum()
        return float(likelihood), weights, scale, factor

    def _system(self, noise: float) -> Tensor:
        """Return the covariance of the measurements and the total (M + 1, M + 1)."""
        system = self.covariance.clone()
        system[:-1, :-1] += _OFFSET * (self._kinds[:, None] == self._kinds)
        system.diagonal()[:-1] += noise
        system.diagonal()[-1] *= 1 + _EXACT
        return system


@dataclass(frozen=True, eq=False)
class Posterior:
    """What is known once measured.

    Attributes:
        mean: Evidence of each cell (P,).
        scale: The prior's scale, a variance ().
        design: What was measured.
        factor: Of the system.
    """

    mean: Tensor
    scale: Tensor
    design: Design
    factor: Tensor

    def covariance(self, places: Tensor) -> Tensor:
        """Return the covariance (S, S) of the evidence kept in some measurements (S,)."""
        across = self.design.covariance[places]
        known = across @ torch.cholesky_solve(across.T, self.factor)
        return self.scale * (across[:, places] - known)
