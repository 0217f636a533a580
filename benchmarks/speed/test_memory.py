"""Peak of live tensors of the whole call, and what stays beside the prototypes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch

from benchmarks.speed.cams import GradCams
from benchmarks.speed.cases import Case
from benchmarks.speed.live_memory import LiveMemory, forget_caches, live_memory
from benchmarks.speed.methods import BareForward, Method, NaivePrototypes, Ours
from benchmarks.speed.recorder import Recorder
from benchmarks.speed.rivals import IntegratedGradients50
from benchmarks.speed.setting import Setting, make_setting

_TABLE = "memory, batch 8"
_COUNTS = [50, 2000, 10000]
_MIB = 2**20


@dataclass(frozen=True)
class MemoryCase(Case):
    """A method, the number of its prototypes, and whether one call must do."""

    build: Callable[[Setting], Method]
    n_prototypes: int = 0
    is_slow: bool = False


def _cases(counts: list[int]) -> list[MemoryCase]:
    ours = [MemoryCase(_TABLE, f"ours, K={k}", partial(Ours, n_prototypes=k), k) for k in counts]
    return [
        MemoryCase(_TABLE, "bare forward", BareForward),
        *ours,
        MemoryCase(_TABLE, "captum LayerGradCam, layer2", partial(GradCams, layers=["layer2"])),
    ]


def _slow_cases(counts: list[int]) -> list[MemoryCase]:
    naive = [
        MemoryCase(_TABLE, f"naive, K={k}", partial(NaivePrototypes, n_prototypes=k), k)
        for k in counts
    ]
    gradients = partial(IntegratedGradients50, internal_batch=8)
    return [
        MemoryCase(_TABLE, "ours, unfitted", partial(Ours, n_prototypes=0)),
        *naive,
        MemoryCase(_TABLE, "captum IntegratedGradients, internal batch 8", gradients, is_slow=True),
    ]


def test_live_memory_counts_by_hand() -> None:
    kept = []

    def call() -> torch.Tensor:
        first = torch.zeros(1000)
        second = first.neg()
        del first
        kept.append(torch.zeros(10))
        return second

    assert live_memory(call) == LiveMemory(peak=8000, kept=40)


@pytest.mark.cases(
    short=_cases([300]),
    full=_cases(_COUNTS) + _slow_cases(_COUNTS),
)
def test_memory(case: MemoryCase, record: Recorder, is_full: bool) -> None:
    setting = make_setting(is_full, 8)
    method, forward = case.build(setting), live_memory(setting.forward)
    forget_caches()
    first = live_memory(method)
    again = first if case.is_slow else live_memory(method)
    method.check(record.once(method))
    width = 128 + 256 + 512
    record.values(
        peak_mib=again.peak / _MIB,
        over_forward=again.peak / forward.peak,
        first_over_forward=first.peak / forward.peak,
        kept_mib=first.kept / _MIB,
        prototypes_mib=case.n_prototypes * (width + 768 + 512) * 4 / _MIB,
    )
    if isinstance(method, Ours):
        cam = live_memory(GradCams(setting, ["layer2"]))
        assert again.peak < cam.peak
        assert case.n_prototypes == 0 or first.peak <= 1.3 * forward.peak
