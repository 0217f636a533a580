"""How near an image's pixels come to each class: log distances, summed while scores are made."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_kmex.composite.by_class import ClassChunk, ClassRuns
from captum_kmex.grids import axes_of

__all__ = ["LogNearness", "mean_log_nearness"]

_SCORES = 2**22  # scores at once whose classes are compared, one a pixel and prototype
_NEAR = 1e-4  # squared distance, over a row's squared norm, below which nearer is no better


class LogNearness:
    """Collects the log distances of pixels to each class's nearest prototype.

    ``StackedBlocks.best`` hands it the scores that it makes anyway.

    Args:
        runs: The classes.
        squares: Float tensor (N, P), squared norms of the rows.
        size: Squared norm of a row none of whose blocks is zero.
    """

    def __init__(self, runs: ClassRuns, squares: Tensor, size: float) -> None:
        self._runs, self._size = runs, size
        self._offsets = squares / size + _NEAR
        self._sums = squares.new_zeros(len(squares), len(runs.sizes))

    def add(
        self,
        scores: Tensor,
        chunk: ClassChunk,
        images: slice,
        pixels: Tensor | None = None,
        dim: int = 2,
    ) -> None:
        """Take in the scores of some pixels for some classes.

        Args:
            scores: Float tensor (n, p, k), or (n, k, p) if ``dim`` is 1.
            chunk: The classes.
            images: The n images.
            pixels: Index tensor (p,), the pixels; all if ``None``.
            dim: Where the prototypes stand.
        """
        first, _, _ = images.indices(len(self._offsets))
        count = max(1, _SCORES // scores[0].numel())
        for start in range(0, len(scores), count):
            best = chunk.best(scores[start : start + count], dim)
            some = slice(first + start, first + start + len(best))
            self.add_best(best, chunk, some, pixels, dim)

    def add_best(
        self,
        best: Tensor,
        chunk: ClassChunk,
        images: slice,
        pixels: Tensor | None = None,
        dim: int = 2,
    ) -> None:
        """Take in the highest scores of each class, float tensor (n, p, g) or (n, g, p)."""
        offsets = self._offsets[images]
        offsets = (offsets if pixels is None else offsets[:, pixels]).unsqueeze(dim)
        # max(0, |z|^2 - 2 best) / size + near, in two passes over memory
        distances = torch.sub(offsets, best, alpha=2 / self._size).clamp_min_(_NEAR)
        self._sums[images, chunk.runs] += _sum_of_logs(distances, 3 - dim)

    def scores(self, n_classes: int) -> Tensor:
        """Return minus the mean log distance (N, C), minus infinity without prototypes."""
        found = self._sums.new_full((len(self._sums), n_classes), -torch.inf)
        found[:, self._runs.classes.to(found.device)] = -0.5 * self._sums / self._offsets.shape[1]
        return found


def _sum_of_logs(values: Tensor, dim: int) -> Tensor:
    """Return the sum of logarithms along a dimension, of four values' product at a time.

    They are neither so small nor so large that four overflow, and a product costs a tenth.
    """
    quarter = values.shape[dim] // 4
    if not quarter:
        return values.log().sum(dim)
    one, two, three, four, *rest = values.split(quarter, dim)
    total: Tensor = (one * two).mul_(three).mul_(four).log_().sum(dim)
    for part in rest:
        total += part.log().sum(dim)
    return total


def mean_log_nearness(best: Tensor, squares: Tensor, size: float) -> Tensor:
    """Return minus the mean log distance over positions (N, C).

    Args:
        best: Float tensor ``(N, C, *grid)``, the scores of each class's nearest prototype.
        squares: Float tensor ``(N, 1, *grid)``, squared norms of the rows.
        size: Squared norm of a row none of whose blocks is zero.
    """
    distances = (squares - 2 * best).clamp_min(0) / size
    return -0.5 * (distances + _NEAR).log().mean(axes_of(best))
