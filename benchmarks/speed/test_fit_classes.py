"""A fit of a thousand classes in a process of its own: what it takes, and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from benchmarks.speed.cases import Case
from benchmarks.speed.own_process import printed_by
from benchmarks.speed.recorder import Recorder

_TABLE = "fit of many classes"
_WIDTHS = (128 + 256 + 512, 256 + 512, 512)  # of ResNet18's stacks, finest first
_BUDGET_MIB = 2048  # of a fit's sample, by default
_BESIDE_MIB = 512  # for all else that a fit makes

pytest.importorskip("resource", reason="the peak is read where Linux keeps it")


@dataclass(frozen=True)
class ClassesCase(Case):
    """So many classes of so many images each."""

    classes: int
    each: int


def _cases(classes: int, each: int) -> list[ClassesCase]:
    return [ClassesCase(_TABLE, f"{classes:,} classes x {each} images", classes, each)]


@pytest.mark.cases(short=_cases(4, 12), full=_cases(1000, 20))
def test_fit_classes(case: ClassesCase, record: Recorder) -> None:
    module = "benchmarks.speed.classes_process"
    found = record.once(lambda: printed_by(module, "resnet18", case.classes, case.each))
    assert found["prototypes"] == 5 * case.classes
    numbers = found["prototypes"] * sum(_WIDTHS)
    assert found["bank_mib"] == pytest.approx(4 * numbers / 2**20, rel=0.25)  # and its patches
    assert found["peak_mib"] - found["before_mib"] <= _BUDGET_MIB + _BESIDE_MIB
    record.values(**found)
