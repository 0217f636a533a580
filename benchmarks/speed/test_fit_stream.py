"""One pass over a stream: inertia on all rows, over the best of several k-means on all rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from benchmarks.speed.cases import Case
from benchmarks.speed.mixtures import Rows
from benchmarks.speed.one_pass import (
    OnePass,
    all_rows,
    all_rows_once,
    best_inertia,
    our_fit,
    partial_fits,
    whole_images,
)
from benchmarks.speed.recorder import Recorder
from benchmarks.speed.solvers import inertia
from benchmarks.speed.streams import (
    Stream,
    digit_features,
    heavy_embeddings,
)

_STREAMS = ("digits", "heavy tails")
_WORST = {"ours": 1.1}  # median inertia over that of the best


@dataclass(frozen=True)
class StreamCase(Case):
    """A way to cluster a stream, with K clusters a class; ``before`` it, the same less a pass."""

    stream: str
    k: int
    solve: OnePass
    before: OnePass | None = None


def _cases(counts: list[int], sizes: list[int]) -> list[StreamCase]:
    ways: dict[str, tuple[OnePass, ...]] = {
        "scikit-learn n_init=1, all rows in memory": (all_rows,)
    }
    for size in sizes:
        rows, fit = f"{size:,} rows a class", partial(our_fit, rows=size)
        ways[f"ours, {rows}"] = (fit,)
        ways[f"ours, {rows}, one more pass"] = (partial(fit, refine=1), fit)
        ways[f"whole images, {rows}"] = (partial(whole_images, rows=size),)
    ways["scikit-learn MiniBatchKMeans.partial_fit"] = (partial_fits,)
    return [
        StreamCase(f"fit, one pass: {stream}, k={k}", row, stream, k, *solvers)
        for stream in _STREAMS
        for k in counts
        for row, solvers in ways.items()
    ]


def _load(name: str, is_full: bool) -> Stream:
    if name == "digits":
        return digit_features(96, 2) if is_full else digit_features(32, 0)
    return heavy_embeddings(100_000, 64) if is_full else heavy_embeddings(1000, 8)


@pytest.mark.cases(short=_cases([3], [300]), full=_cases([5, 10], [5000, 1000]))
@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")
def test_fit_stream(case: StreamCase, record: Recorder, is_full: bool) -> None:
    stream = _load(case.stream, is_full)
    seeds = 6 if is_full else 2
    best = best_inertia(stream, case.k, seeds)
    solved = [record.once(lambda: case.solve(stream, case.k, 0))]
    again = all_rows_once if case.solve is all_rows else case.solve
    solved += [again(stream, case.k, seed) for seed in range(1, seeds)]
    excess = [
        inertia(stream.rows(c), centroids) / best[c]
        for found in solved
        for c, centroids in enumerate(found)
    ]
    assert {centroids.shape[0] for found in solved for centroids in found} == {case.k}
    # the best of several runs is seldom beaten, and by little
    assert min(excess) > 0.95
    assert np.median(excess) < _WORST.get(case.row.split(",")[0], 3)
    if case.before is not None:
        _check_no_worse(stream, case.before(stream, case.k, 0), solved[0])
    record.values(
        inertia=float(np.median(excess)),
        inertia_p90=float(np.quantile(excess, 0.9)),
        rows_a_class=len(stream.rows(0)),
        fits=len(excess),
    )


def _check_no_worse(stream: Stream, before: list[Rows], after: list[Rows]) -> None:
    """Assert that a Lloyd step over all rows raises no class's inertia on all rows."""
    for c, (old, new) in enumerate(zip(before, after, strict=True)):
        rows = stream.rows(c)
        assert inertia(rows, new) <= inertia(rows, old) * (1 + 1e-5)
