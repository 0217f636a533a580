"""What a fit costs beside the forward passes that it needs anyway."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median

import pytest
import torch
from torch import Tensor, nn

from benchmarks.speed.cases import Case
from benchmarks.speed.recorder import Recorder
from benchmarks.speed.setting import LAYERS, make_setting
from benchmarks.timing import cpu_seconds
from captum_kmex import KMExAttribution, LayerKMeansAttribution
from captum_kmex.attributions.fitted_attribution import FittedAttribution

_TABLE = "fit, cost over the forward passes"
_CLASSES = 2
_BATCH = 8
_ROUNDS = 3
_CAP = 20_000  # rows kept of a class, by default


@dataclass(frozen=True)
class FitStepCase(Case):
    """An attribution and the rows an image gives it."""

    build: Callable[[nn.Module], FittedAttribution]
    is_pooled: bool


def _layered(model: nn.Module) -> FittedAttribution:
    return LayerKMeansAttribution(model, list(LAYERS))


def _cases() -> list[FitStepCase]:
    return [
        FitStepCase(_TABLE, "LayerKMeansAttribution, layers 2-4", _layered, False),
        FitStepCase(_TABLE, "KMExAttribution", KMExAttribution, True),
    ]


def _same_cases() -> list[Case]:
    return [Case(_TABLE, "forward passes, against themselves")]


def _late(batches: list[tuple[Tensor, Tensor]]) -> int:
    """Return where the last quarter of a pass begins."""
    return len(batches) * 3 // 4


@dataclass
class WatchedBatches:
    """A loader that notes when each batch was done with, in every pass."""

    batches: list[tuple[Tensor, Tensor]]
    passes: list[list[float]] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches; a pass is noted when they are exhausted."""
        times = [time.process_time()]
        for batch in self.batches:
            yield batch
            times.append(time.process_time())
        self.passes.append(times)


@dataclass
class FitWatch:
    """Fits and keeps the seconds of its parts.

    Attributes:
        build: Makes an attribution.
        batches: The data.
        parts: Of each fit: sampling pass, last quarter of it, clustering, second pass.
    """

    build: Callable[[], FittedAttribution]
    batches: list[tuple[Tensor, Tensor]]
    parts: list[tuple[float, float, float, float]] = field(default_factory=list)

    def fit(self) -> FittedAttribution:
        """Fit once and note the parts."""
        loader = WatchedBatches(self.batches)
        start = time.process_time()
        fitted = self.build().fit(loader, classes=range(_CLASSES))
        total = time.process_time() - start
        first, last = loader.passes
        sampling, second = first[-1] - first[0], last[-1] - last[0]
        late = first[-1] - first[_late(self.batches)]
        self.parts.append((sampling, late, total - sampling - second, second))
        return fitted

    def sampling_seconds(self) -> float:
        """Fit once; return the seconds of the sampling pass."""
        self.fit()
        return self.parts[-1][0]


@pytest.mark.cases(short=_same_cases(), full=_same_cases())
def test_same_forward_passes_twice(case: Case, record: Recorder, is_full: bool) -> None:
    setting = make_setting(is_full, _BATCH)
    logits = record.against(setting.forward, {"forward": setting.forward}, _ROUNDS)
    torch.testing.assert_close(logits, setting.logits)


@pytest.mark.cases(short=_cases(), full=_cases())
@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")
def test_fit_step(case: FitStepCase, record: Recorder, is_full: bool) -> None:
    setting = make_setting(is_full, 64 if is_full else 16)
    labels = torch.arange(len(setting.images)) % _CLASSES
    batches = list(zip(setting.images.split(_BATCH), labels.split(_BATCH), strict=True))

    def forward() -> None:
        with torch.inference_mode():
            for images, _ in batches:
                setting.model(images)

    watch = FitWatch(lambda: case.build(setting.model), batches)
    watches = {"subject": watch.sampling_seconds, "forward": cpu_seconds(forward)}
    seconds = record.interleave(watches, _ROUNDS)
    record.seconds(seconds)
    fitted = record.once(watch.fit)
    _check(fitted, len(setting.images) // _CLASSES, case.is_pooled, setting.images.shape[-1])
    sampling, late, solve, second = (median(part) for part in zip(*watch.parts, strict=True))
    share = len(batches[_late(batches) :]) / len(batches)
    record.values(
        late_over_forward=late / (share * median(seconds["forward"])),
        solve_over_pass=solve / sampling,
        second_over_first=second / sampling,
        images=len(setting.images),
    )


def _check(fitted: FittedAttribution, images: int, is_pooled: bool, side: int) -> None:
    """Assert that clusters hold all rows of a class, or as many as are kept, and patches."""
    rows = images if is_pooled else images * (side // 8) ** 2
    for book in fitted.bank_.codebooks[:1]:
        for c in range(_CLASSES):
            assert int(book.counts[book.of_class(c)].sum()) == min(rows, _CAP)
        assert torch.isfinite(book.centroids).all()
        assert book.representatives is not None
