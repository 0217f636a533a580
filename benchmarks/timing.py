"""The timing protocol: CPU time of one thread, callables interleaved, ratios round by round.

Other jobs on a machine change its speed from one second to the next, so absolute times are
worth little. What is compared runs in the same round, in an order that is reversed from round
to round; a ratio is taken in every round, and the median and quartiles of these are reported.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata

import torch

__all__ = [
    "Quartiles",
    "Stopwatch",
    "cpu_seconds",
    "environment",
    "interleave",
    "ratios",
    "wall_seconds",
]

Stopwatch = Callable[[], float]  # runs something once and returns its seconds

_PACKAGES = (
    "torch",
    "torchvision",
    "captum",
    "numpy",
    "scikit-learn",
    "faiss-cpu",
    "grad-cam",
    "torchcam",
    "zennit",
    "shap-bpt",
    "pytest-benchmark",
)


@dataclass(frozen=True)
class Quartiles:
    """Median and quartiles of a ratio over rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: list[float]) -> Quartiles:
        """Summarise the values of all rounds."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0], len(values))
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, len(values))


def cpu_seconds(call: Callable[[], object]) -> Stopwatch:
    """Return a stopwatch of the process's CPU time, which other jobs do not add to."""

    def run() -> float:
        start = time.process_time()
        call()
        return time.process_time() - start

    return run


def wall_seconds(call: Callable[[], object]) -> Stopwatch:
    """Return a stopwatch of the clock on the wall, for what runs in several processes."""

    def run() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return run


def interleave(
    stopwatches: Mapping[str, Stopwatch], rounds: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Run all stopwatches in every round, in alternating order.

    Args:
        stopwatches: What to run, by name.
        rounds: Number of rounds that count.
        warm_up: Run one more round first, which does not.

    Returns:
        The seconds of each in every round.
    """
    names = list(stopwatches)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    if warm_up:
        for name in names:
            stopwatches[name]()
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            seconds[name].append(stopwatches[name]())
    return seconds


def ratios(seconds: Mapping[str, list[float]], subject: str) -> dict[str, Quartiles]:
    """Return the subject's time over that of each other, from the ratios of single rounds."""
    return {
        name: Quartiles.of([a / b for a, b in zip(seconds[subject], values, strict=True)])
        for name, values in seconds.items()
        if name != subject
    }


def environment() -> dict[str, object]:
    """Return threads, load average and versions, to be kept beside a result."""
    return {
        "threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        "load": [round(x, 2) for x in os.getloadavg()],
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
