"""From cells to the figures of the report: means over images and seeds, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluation.cells import Cell

__all__ = ["Estimate", "Row", "summarise"]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % bootstrap interval.

    Attributes:
        mean: Mean over images and seeds.
        low: Lower end of the interval.
        high: Upper end; both equal the mean where there is one value in all.
        n_values: Images, or 1 for one value in all.
        n_seeds: Seeds.
    """

    mean: float
    low: float
    high: float
    n_values: int
    n_seeds: int


@dataclass(frozen=True)
class Row:
    """A method's line in one task's table of one measure: estimates by column, or a reason."""

    task: str
    method: str
    measure: str
    estimates: dict[str, Estimate]
    reason: str = ""


def summarise(cells: Iterable[Cell], n_bootstrap: int) -> list[Row]:
    """Put the seeds of each method together.

    Images are resampled, all seeds with them, and the seeds are resampled too: an interval
    covers both. Values of the seeds are paired by position.

    Args:
        cells: What was run.
        n_bootstrap: Number of resamples.
    """
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        for measure in (*cell.scores, *cell.reasons):
            groups.setdefault((cell.task, cell.method, measure), []).append(cell)
    rows = []
    for (task, method, measure), group in groups.items():
        scores = [cell.scores[measure] for cell in group if measure in cell.scores]
        reasons = {cell.reasons[measure] for cell in group if measure in cell.reasons}
        keys = dict.fromkeys(key for found in scores for key in found)
        estimates = {
            key: estimate
            for key in keys
            if (estimate := _estimate([s[key] for s in scores if key in s], n_bootstrap))
        }
        rows.append(Row(task, method, measure, estimates, "; ".join(sorted(reasons))))
    return rows


def _estimate(seeds: list[list[float | None]], n_bootstrap: int) -> Estimate | None:
    length = min(map(len, seeds))
    table = np.array([s[:length] for s in seeds], dtype=float)  # (S, n), NaN where undefined
    if not length or np.isnan(table).all():
        return None
    mean = float(np.nanmean(table))
    low, high = _interval(table, n_bootstrap) if table.size > 1 else (mean, mean)
    return Estimate(mean, low, high, int((~np.isnan(table)).any(0).sum()), len(seeds))


def _interval(table: NDArray[np.float64], n_bootstrap: int) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    n_seeds, n_values = table.shape
    known = ~np.isnan(table)
    values = np.where(known, table, 0.0)
    means = []
    for _ in range(n_bootstrap):
        images = rng.multinomial(n_values, np.full(n_values, 1 / n_values))
        chosen = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds))
        weights = np.outer(chosen, images) * known
        if total := weights.sum():
            means.append(float((weights * values).sum() / total))
    low, high = np.quantile(means, [0.025, 0.975]) if means else (math.nan, math.nan)
    return float(low), float(high)
