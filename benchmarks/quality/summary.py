"""From cells to the figures of the report: means over images and seeds, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.cells import Cell

__all__ = ["Estimate", "Row", "compare", "summarise"]


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


def compare(
    cells: Iterable[Cell], subject: str, rival: str, n_bootstrap: int
) -> dict[tuple[str, str, str], Estimate]:
    """Return the subject's scores less the rival's, image by image.

    Args:
        cells: What was run.
        subject: Name of a method.
        rival: Name of another.
        n_bootstrap: Number of resamples.

    Returns:
        Estimates by task, measure and column; where both have a value an image.
    """
    tables: dict[tuple[str, str, str, str], list[list[float | None]]] = {}
    for cell in cells:
        for measure, scores in cell.scores.items():
            for column, values in scores.items():
                key = cell.method, cell.task, measure, column
                tables.setdefault(key, []).append(values)
    found = {}
    for (method, *where), seeds in tables.items():
        other = tables.get((rival, where[0], where[1], where[2]))
        if method != subject or other is None or min(map(len, seeds + other)) < 2:
            continue
        length = min(map(len, seeds + other))
        own, theirs = (_table(values, length).mean(0, keepdims=True) for values in (seeds, other))
        if (estimate := _estimate((own - theirs).tolist(), n_bootstrap)) is not None:
            found[where[0], where[1], where[2]] = estimate
    return found


def _table(seeds: list[list[float | None]], length: int) -> NDArray[np.float64]:
    """Return the values (S, n), NaN where they are not defined."""
    return np.array([values[:length] for values in seeds], dtype=float)


def _estimate(seeds: list[list[float | None]], n_bootstrap: int) -> Estimate | None:
    length = min(map(len, seeds))
    table = _table(seeds, length)
    if not length or np.isnan(table).all():
        return None
    mean = float(np.nanmean(table))
    low, high = _interval(table, n_bootstrap) if table.size > 1 else (mean, mean)
    return Estimate(mean, low, high, int((~np.isnan(table)).any(0).sum()), len(seeds))


def _interval(table: NDArray[np.float64], n_bootstrap: int) -> tuple[float, float]:
    known = ~np.isnan(table)
    values = np.where(known, table, 0.0)
    chosen, images = _resamples(*table.shape, n_bootstrap)
    totals = (images * (chosen @ known)).sum(1)
    sums = (images * (chosen @ values)).sum(1)
    means = sums[totals > 0] / totals[totals > 0]
    low, high = np.quantile(means, [0.025, 0.975]) if len(means) else (math.nan, math.nan)
    return float(low), float(high)


@lru_cache(maxsize=8)
def _resamples(
    n_seeds: int, n_values: int, n_bootstrap: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how often each seed (B, S) and each value (B, n) is drawn: all tables alike."""
    rng = np.random.default_rng(0)
    seeds, values = (
        rng.multinomial(n, np.full(n, 1 / n), n_bootstrap) for n in (n_seeds, n_values)
    )
    return seeds, values
