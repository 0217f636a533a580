"""Peak of live tensors during a call, replayed from the profiler's allocation events.

Allocations do not depend on the clock, so the figure is the same on every run. It counts what
torch allocates: not NumPy's arrays, not the workspace inside oneDNN's convolutions.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

__all__ = ["LiveMemory", "forget_caches", "live_memory"]


@dataclass(frozen=True)
class LiveMemory:
    """Bytes of tensors allocated since the call began.

    Attributes:
        peak: Most at any one time.
        kept: Still there when the call's result is dropped.
    """

    peak: int
    kept: int


def live_memory(call: Callable[[], object]) -> LiveMemory:
    """Run a call under the profiler and replay what was allocated and freed."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
        del result
        gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]"]
    changes.sort(key=lambda event: (event["ts"], event["args"]["Ev Idx"]))
    return _replay([(event["args"]["Addr"], event["args"]["Bytes"]) for event in changes])


def _replay(changes: list[tuple[int, int]]) -> LiveMemory:
    """Follow allocations and frees; a free of something older than the call counts nothing."""
    sizes: dict[int, int] = {}
    live = peak = 0
    for address, size in changes:
        if size > 0:
            sizes[address] = size
            live += size
            peak = max(peak, live)
        else:
            live -= sizes.pop(address, 0)
    return LiveMemory(peak, live)


def forget_caches() -> None:
    """Empty the package's module-level caches, so that what a call keeps is counted."""
    for name, module in list(sys.modules.items()):
        if name.startswith("captum_kmex"):
            for value in vars(module).values():
                getattr(value, "cache_clear", int)()
