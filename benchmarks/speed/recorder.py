"""Keep what a benchmark test finds where the report reads it: ``extra_info`` of its result."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TypeVar

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.speed.cases import Case
from benchmarks.timing import Stopwatch, cpu_seconds, environment, interleave, ratios

__all__ = ["Recorder"]

_T = TypeVar("_T")


class Recorder:
    """Times one callable against others and keeps values beside it.

    Args:
        benchmark: The fixture of pytest-benchmark.
        case: The row that the test fills.
        is_full: Whether times count; otherwise everything runs once, for its result.
    """

    def __init__(self, benchmark: BenchmarkFixture, case: Case, is_full: bool) -> None:
        self._benchmark = benchmark
        self._is_full = is_full
        benchmark.group = case.table
        benchmark.extra_info.update(environment(), table=case.table, row=case.row)

    def against(
        self, subject: Callable[[], _T], others: Mapping[str, Callable[[], object]], rounds: int
    ) -> _T:
        """Time the subject against each of the others and return its result.

        Args:
            subject: What the row is about.
            others: What it is compared with, by name.
            rounds: Interleaved rounds of a full run; a short one has one.
        """
        watches = {name: cpu_seconds(call) for name, call in others.items()}
        self.compare({"subject": cpu_seconds(subject)} | watches, rounds)
        return self.once(subject)

    def compare(self, stopwatches: Mapping[str, Stopwatch], rounds: int) -> None:
        """Keep the ratios of the stopwatch named ``subject`` to the others."""
        self.seconds(self.interleave(stopwatches, rounds))

    def interleave(
        self, stopwatches: Mapping[str, Stopwatch], rounds: int
    ) -> dict[str, list[float]]:
        """Return the seconds of every round, of a single one in a short run."""
        rounds = rounds if self._is_full else 1
        return interleave(stopwatches, rounds, warm_up=self._is_full and rounds > 1)

    def seconds(self, seconds: Mapping[str, list[float]]) -> None:
        """Keep the ratios of the seconds named ``subject`` to the others', and the medians."""
        found = {name: asdict(ratio) for name, ratio in ratios(seconds, "subject").items()}
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        self._benchmark.extra_info.update(ratios=found, seconds=medians)

    def once(self, subject: Callable[[], _T]) -> _T:
        """Return the subject's result, its absolute time kept by pytest-benchmark."""
        result: _T = self._benchmark.pedantic(subject, rounds=1)
        return result

    def values(self, **values: object) -> None:
        """Keep further figures of the row."""
        self._benchmark.extra_info.setdefault("values", {}).update(values)
