"""What ``explain`` and ``predict`` add to ``attribute``, from few classes to many."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from benchmarks.speed.cases import Case
from benchmarks.speed.recorder import Recorder
from benchmarks.speed.setting import Setting, fitted, make_setting
from benchmarks.speed.tail import AfterForward, kept_reading
from captum_kmex import LayerKMeansAttribution

_ROUNDS = 5
_CALLS = ("attribute", "explain", "predict")


@dataclass(frozen=True)
class ExplainCase(Case):
    """A call with so many prototypes of each of so many classes."""

    classes: int
    each: int
    call: str
    batch: int


def _cases(sizes: list[tuple[int, int]], batch: int) -> list[ExplainCase]:
    table = f"explain and predict, batch {batch}"
    return [
        ExplainCase(table, f"{call}, {classes} x {each}", classes, each, call, batch)
        for classes, each in sizes
        for call in _CALLS
    ]


@pytest.mark.cases(
    short=_cases([(10, 2), (100, 3)], 2), full=_cases([(10, 5), (200, 10), (1000, 5)], 8)
)
def test_explain(case: ExplainCase, record: Recorder, is_full: bool) -> None:
    setting = make_setting(is_full, case.batch)
    attribution = fitted(setting, case.classes * case.each, case.classes)
    watch = AfterForward(setting, lambda: getattr(attribution, case.call)(setting.images))
    with kept_reading(attribution, setting.images):
        seconds = record.interleave({"subject": watch}, _ROUNDS if is_full else 1)
        forwards = watch.forwards[-len(seconds["subject"]) :]
        record.seconds(seconds | {"forward": forwards})
        record.once(watch)
    _check(setting, attribution)


def _check(setting: Setting, attribution: LayerKMeansAttribution) -> None:
    """Assert that all three tell the same."""
    found = attribution.explain(setting.images)
    assert torch.equal(found.attribution, attribution.attribute(setting.images))
    assert torch.equal(found.prediction, attribution.predict(setting.images))
