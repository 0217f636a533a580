"""Peak of live tensors where one picture is large."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest

from benchmarks.speed.cases import Case
from benchmarks.speed.live_memory import forget_caches, live_memory
from benchmarks.speed.methods import BareForward, Method, Ours, Segmented
from benchmarks.speed.recorder import Recorder
from benchmarks.speed.setting import Setting, make_setting

_MIB = 2**20
_MOST = 1.3  # of the forward's


@dataclass(frozen=True)
class LargeCase(Case):
    """A method on one square picture."""

    build: Callable[[Setting], Method]
    size: int


def _cases(size: int) -> list[LargeCase]:
    methods: dict[str, Callable[[Setting], Method]] = {
        "bare forward": BareForward,
        "ours, K=50": partial(Ours, n_prototypes=50),
        "ours, defaults": partial(Ours, n_prototypes=None),
        "ours, defaults, segment": partial(Segmented, n_prototypes=None),
    }
    table = f"memory, {size} x {size}, batch 1"
    return [LargeCase(table, row, build, size) for row, build in methods.items()]


@pytest.mark.cases(short=_cases(160), full=_cases(2048))
def test_large_picture(case: LargeCase, record: Recorder, is_full: bool) -> None:
    setting = make_setting(is_full, 1, case.size)
    method, forward = case.build(setting), live_memory(setting.forward)
    forget_caches()
    first, again = live_memory(method), live_memory(method)
    method.check(record.once(method))
    assert max(first.peak, again.peak) <= _MOST * forward.peak
    record.values(
        peak_mib=again.peak / _MIB,
        over_forward=again.peak / forward.peak,
        first_over_forward=first.peak / forward.peak,
        kept_mib=first.kept / _MIB,
    )
