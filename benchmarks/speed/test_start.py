"""What ``import captum_kmex`` adds to importing torch and Captum."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from benchmarks.speed.cases import Case
from benchmarks.speed.recorder import Recorder

_TABLE = "import"
_ROUNDS = 9
# an installed package is compiled once, not in every process
_COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
_BASE = "import sys, torch, captum.attr\n"
_COUNT = """
known = {name.split(".")[0] for name in sys.modules}
%s
print(*sorted({name.split(".")[0] for name in sys.modules} - known))
"""


@dataclass(frozen=True)
class StartCase(Case):
    """A line of code."""

    line: str


def _cases() -> list[StartCase]:
    lines = ["import captum_kmex", "from captum_kmex import LayerKMeansAttribution"]
    return [
        *(StartCase(_TABLE, line, line) for line in lines),
        StartCase(_TABLE, "torch and captum alone, against itself", ""),
    ]


def _child_seconds(code: str) -> Callable[[], float]:
    """Return a stopwatch of a fresh process's CPU time."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def run() -> float:
        before = spent()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=_COMPILED)
        return spent() - before

    return run


@pytest.mark.cases(short=_cases(), full=_cases())
def test_start(case: StartCase, record: Recorder) -> None:
    watches = {"subject": _child_seconds(_BASE + case.line), "alone": _child_seconds(_BASE)}
    record.compare(watches, _ROUNDS)
    command = [sys.executable, "-c", _BASE + _COUNT % case.line]
    run = record.once(lambda: subprocess.run(command, check=True, capture_output=True, text=True))
    assert set(run.stdout.split()) <= {"captum_kmex", "safetensors"}
