"""A cell: one method on one task with one seed, all measures; kept as soon as it is done."""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.quality.measure import Answers, Measure
from benchmarks.quality.method import Method, UnavailableError
from benchmarks.quality.presets import Preset
from benchmarks.quality.task import Sample, Task

__all__ = ["Cell", "Scores", "run_cell"]

_FAILED = "failed: "
Scores = dict[str, list[float | None]]  # by column; one value an image, or one in all


@dataclass
class Cell:
    """What came of one method on one task with one seed.

    Attributes:
        task: Name of the task.
        method: Name of the method.
        seed: Seed.
        scores: By measure, the values of each of its columns.
        reasons: By measure, why it has no values.
        seconds: By measure, how long it took.
    """

    task: str
    method: str
    seed: int
    scores: dict[str, Scores] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def lacks(self, measures: Iterable[str]) -> list[str]:
        """Return the measures among these that have no values, and no reason but a failure."""
        done = {m for m, reason in self.reasons.items() if not reason.startswith(_FAILED)}
        return [m for m in measures if m not in self.scores and m not in done]

    def save(self, path: Path) -> None:
        """Write the cell; an interruption leaves the old file."""
        fresh = path.with_suffix(".part")
        fresh.write_text(json.dumps(asdict(self)))
        fresh.replace(path)

    @classmethod
    def load(cls, path: Path) -> Cell:
        """Read a cell."""
        return cls(**json.loads(path.read_text()))


def run_cell(
    cell: Cell,
    path: Path,
    make: Callable[[], Method],
    task: Task,
    sample: Sample,
    preset: Preset,
    measures: Mapping[str, Measure],
) -> None:
    """Fit a method and take the measures that its cell lacks, saving after each.

    A method that cannot run, or fails, gets the reason in place of its values, and the run goes
    on. What failed is tried again by the next run; what is unavailable is not.
    """
    wanted = cell.lacks(measures)
    if not wanted:
        return

    def fit(seed: int) -> Method:
        method = make()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            method.fit(task, seed)
        return method

    started = time.perf_counter()
    try:
        answers = Answers(fit(cell.seed), task, sample, preset, cell.seed, fit)
    except Exception as error:
        cell.reasons |= dict.fromkeys(wanted, _reason(error))
        cell.save(path)
        return
    cell.seconds.setdefault("fit", time.perf_counter() - started)
    for name in wanted:
        started = time.perf_counter()
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(cell.seed)
                scores = measures[name].score(answers)
            cell.scores[name] = {key: _values(value) for key, value in scores.items()}
            cell.reasons.pop(name, None)
        except Exception as error:
            cell.reasons[name] = _reason(error)
        cell.seconds[name] = time.perf_counter() - started
        cell.save(path)


def _reason(error: Exception) -> str:
    if isinstance(error, UnavailableError):
        return str(error)
    traceback.print_exception(error)
    return f"{_FAILED}{type(error).__name__}: {error}".splitlines()[0][:300]


def _values(scores: Tensor) -> list[float | None]:
    """Return the values, to five digits; those that are not defined are ``None``."""
    values = scores.detach().double().flatten().tolist()
    return [float(f"{x:.5g}") if math.isfinite(x) else None for x in values]
