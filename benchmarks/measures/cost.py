"""What an explanation costs: seconds and memory, relative to the network's forward pass."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.measures.formulas.perturbation import logits
from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.method import UnavailableError
from benchmarks.quality.task import Sample, Task
from benchmarks.speed.live_memory import live_memory
from benchmarks.timing import cpu_seconds, interleave

__all__ = ["MEASURES"]

_BATCH = 8
_ROUNDS = 3
_MANY = 20  # forward passes of an image, or _HEAVY mobile ones of a batch: measured once
_HEAVY = 50
_TOO_MANY = 400  # forward passes that the profiler cannot follow


def _question(answers: Answers, sample: Sample) -> Callable[[], object]:
    """Return what is timed: the first thing that the method can be asked for."""
    method, x, targets = answers.method, sample.inputs, sample.targets
    questions: list[Callable[[], object]] = [
        lambda: method.maps(x, targets),
        lambda: method.concepts(x, targets),
        lambda: method.segments(x, targets),
        lambda: method.predict(x),
    ]
    for question in questions:
        try:
            question()
        except UnavailableError:
            continue
        return question
    raise UnavailableError("explains no single image")


@lru_cache(maxsize=4)
def _forward_peak(task: Task, sample: Sample, n_images: int) -> int:
    """Return the bytes that a forward pass of the first images needs, once for all methods."""
    return live_memory(lambda: logits(task, sample.inputs[:n_images])).peak


def _score(answers: Answers) -> dict[str, Tensor]:
    """Time the explanation of one batch, and follow its tensors."""
    passes = answers.method.passes
    is_slow = passes > _MANY or passes * answers.task.weight * _BATCH > _HEAVY
    n_images = 1 if is_slow else _BATCH
    sample = answers.sample.first(n_images)
    explain = _question(answers, sample)

    def forward() -> Tensor:
        return logits(answers.task, sample.inputs)

    watches = {"explain": cpu_seconds(explain), "forward": cpu_seconds(forward)}
    rounds = 1 if is_slow else _ROUNDS
    seconds = interleave(watches, rounds, warm_up=not is_slow)
    found = [a / b for a, b in zip(seconds["explain"], seconds["forward"], strict=True)]
    memory = torch.nan
    if passes <= _TOO_MANY:
        memory = live_memory(explain).peak / _forward_peak(answers.task, answers.sample, n_images)
    values = {"seconds": statistics.median(found), "memory": memory}
    return {key: torch.tensor(value) for key, value in values.items()}


MEASURES = (
    Measure(
        "cost",
        "Cost of explaining",
        {
            "seconds": Column("seconds / forward", better="low", percent=False),
            "memory": Column("peak memory / forward", better="low", percent=False),
        },
        _score,
        "CPU time of explaining one batch over that of the network's forward pass on the same "
        "images, in the same round on one thread (median of "
        f"{_ROUNDS} rounds of {_BATCH} images; one round of one image for slow methods), and the "
        "peak of live tensors over that of the forward pass. Fitting is not counted. A method "
        "without maps is timed on its concepts, segments or prediction. Memory counts torch's "
        "tensors, not NumPy's arrays.",
    ),
)
