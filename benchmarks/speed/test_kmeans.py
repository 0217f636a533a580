"""Class-wise k-means with all rows in memory: time and inertia beside scikit-learn and faiss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest

from benchmarks.speed.cases import Case
from benchmarks.speed.live_memory import live_memory
from benchmarks.speed.mixtures import Rows, rectified_mixture
from benchmarks.speed.recorder import Recorder
from benchmarks.speed.solvers import SOLVERS, Solver, faiss_all_rows, inertia, lloyd_once, ours
from benchmarks.timing import Stopwatch, cpu_seconds

_WIDTH = 512
_SEED = 0
_MIB = 2**20
_ONE_START, _FAISS = "scikit-learn Lloyd, n_init=1", "faiss, k-means++ start, all rows"
# of the loop with one start; ten starts of ours must not be worse than one of theirs
_WORST = {"ours, n_init=1": 1.1, "ours, n_init=10": 1.01, "scikit-learn Lloyd, n_init=10": 1.0001}


@dataclass(frozen=True)
class KMeansCase(Case):
    """A solver on so many classes of so many rows."""

    classes: int
    rows: int
    k: int
    rounds: int


def _cases(classes: int, rows: int, k: int, rounds: int) -> list[KMeansCase]:
    table = f"k-means, {classes} classes x {rows} rows x {_WIDTH}, k={k}"
    return [KMeansCase(table, row, classes, rows, k, rounds) for row in SOLVERS]


def _large_cases(classes: int, rows: int, k: int) -> list[KMeansCase]:
    table = f"k-means, {classes} classes x {rows} rows x {_WIDTH}, k={k}, a class"
    return [KMeansCase(table, "ours, n_init=10", classes, rows, k, 1)]


def _codebook_cases(rows: int, k: int) -> list[KMeansCase]:
    table = f"k-means, 1 class x {rows} rows x {_WIDTH}, k={k}"
    names = [_ONE_START, *(name for name in SOLVERS if not name.startswith("scikit-learn Lloyd"))]
    return [KMeansCase(table, row, 1, rows, k, 1) for row in names]


@pytest.mark.cases(
    short=_cases(6, 30, 5, 2) + _cases(2, 600, 5, 2),
    full=_cases(200, 30, 10, 5) + _cases(10, 5000, 5, 3) + _cases(20, 1300, 5, 5),
)
def test_kmeans(case: KMeansCase, record: Recorder) -> None:
    samples = rectified_mixture(case.classes, case.rows, _WIDTH, np.random.default_rng(_SEED))
    solver = SOLVERS[case.row]
    once = {"scikit-learn, n_init=1": lambda: lloyd_once(samples, case.k)}
    found = record.against(lambda: solver(samples, case.k), once, case.rounds)
    pairs = zip(samples, found, lloyd_once(samples, case.k), strict=True)
    scores = [(inertia(rows, own), inertia(rows, base)) for rows, own, base in pairs]
    own, base = (sum(column) for column in zip(*scores, strict=True))
    assert all(centroids.shape == (case.k, _WIDTH) for centroids in found)
    assert own <= base * _WORST.get(case.row, 2)
    record.values(inertia=own / base)
    if case.row.startswith("ours"):
        record.values(peak_mib=live_memory(lambda: solver(samples, case.k)).peak / _MIB)


@pytest.mark.cases(short=_large_cases(4, 200, 5), full=_large_cases(1000, 1300, 5))
def test_kmeans_of_many_large_classes(case: KMeansCase, record: Recorder) -> None:
    """Ours on all classes at once; the loop, whose time is linear, on the first twenty."""
    generator = np.random.default_rng(_SEED)
    samples = rectified_mixture(case.classes, case.rows, _WIDTH, generator)
    few = samples[:20]
    watches = {
        "subject": _per_class(lambda: ours(samples, case.k), len(samples)),
        "scikit-learn, n_init=1": _per_class(lambda: lloyd_once(few, case.k), len(few)),
    }
    record.compare(watches, case.rounds)
    found = record.once(lambda: ours(samples, case.k))
    pairs = list(zip(few, found, lloyd_once(few, case.k), strict=False))
    own = sum(inertia(rows, centroids) for rows, centroids, _ in pairs)
    base = sum(inertia(rows, centroids) for rows, _, centroids in pairs)
    assert len(found) == case.classes
    assert own <= base * _WORST[case.row]
    record.values(inertia=own / base, classes=case.classes)


@pytest.mark.cases(short=_codebook_cases(3000, 100), full=_codebook_cases(100_000, 200))
def test_kmeans_of_one_codebook(case: KMeansCase, record: Recorder) -> None:
    """Everything runs once: the base takes a minute, scikit-learn several."""
    samples = rectified_mixture(1, case.rows, _WIDTH, np.random.default_rng(_SEED))
    solver = lloyd_once if case.row == _ONE_START else SOLVERS[case.row]
    found, seconds = record.once(lambda: _timed(solver, samples, case.k))
    base, base_seconds = _solved_by_faiss(case.rows, case.k)
    record.seconds({"subject": [seconds], _FAISS: [base_seconds]})
    own = inertia(samples[0], found)
    assert found.shape == (case.k, _WIDTH)
    assert own <= base * _WORST.get(case.row, 2)
    record.values(inertia=own / base)
    if case.row.startswith("ours"):
        record.values(peak_mib=live_memory(lambda: solver(samples, case.k)).peak / _MIB)


@lru_cache
def _solved_by_faiss(rows: int, k: int) -> tuple[float, float]:
    """Return the inertia and the seconds of faiss on all rows of one class."""
    samples = rectified_mixture(1, rows, _WIDTH, np.random.default_rng(_SEED))
    found, seconds = _timed(faiss_all_rows, samples, k)
    return inertia(samples[0], found), seconds


def _timed(solver: Solver, samples: Sequence[Rows], k: int) -> tuple[Rows, float]:
    """Return the centroids of the only class and the seconds that they took."""
    found: list[Rows] = []
    seconds = cpu_seconds(lambda: found.extend(solver(samples, k)))()
    return found[0], seconds


def _per_class(call: Callable[[], object], count: int) -> Stopwatch:
    watch = cpu_seconds(call)
    return lambda: watch() / count
