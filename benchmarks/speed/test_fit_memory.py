"""Peak resident memory of a fit as the data grow a hundredfold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import pytest

from benchmarks.speed.cases import Case
from benchmarks.speed.fit_process import CLASSES, ROW_BYTES, ROWS_AN_IMAGE
from benchmarks.speed.own_process import printed_by
from benchmarks.speed.recorder import Recorder

_FIRST = 2000  # images; the sample of every class is full, and has been renewed, from here on
_MIB = 2**20
_GROWTH = 1.05  # of the whole process, from N images to any more

pytest.importorskip("resource", reason="the peak is read where Linux keeps it")


@dataclass(frozen=True)
class FitMemoryCase(Case):
    """A number of images."""

    images: int


def _cases(factors: list[int]) -> list[FitMemoryCase]:
    return [FitMemoryCase("fit, memory", f"{f * _FIRST:,} images", f * _FIRST) for f in factors]


@pytest.mark.cases(short=_cases([1, 4]), full=_cases([1, 10, 100]))
def test_fit_memory(case: FitMemoryCase, record: Recorder) -> None:
    found = record.once(lambda: _fit(case.images))
    first = _first_fit()
    growth = found["after"] / first["after"]
    assert found["rows_kept"] == first["rows_kept"] <= CLASSES * 20_000
    assert growth <= _GROWTH
    record.values(
        peak_mib=found["after"] / _MIB,
        fit_mib=(found["after"] - found["before"]) / _MIB,
        over_first=growth,
        all_rows_mib=case.images * ROWS_AN_IMAGE * ROW_BYTES / _MIB,
    )


@lru_cache
def _first_fit() -> dict[str, int]:
    return _fit(_FIRST)


def _fit(images: int) -> dict[str, int]:
    return printed_by("benchmarks.speed.fit_process", images)
