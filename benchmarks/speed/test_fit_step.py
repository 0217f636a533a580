"""What a fit costs beside the forward passes that it needs anyway, and how near its patches are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from benchmarks.speed.cases import Case
from benchmarks.speed.recorder import Recorder
from benchmarks.speed.setting import LAYERS, make_setting
from benchmarks.tasks import mnist
from benchmarks.tasks.data.small_pictures import load_small_resnet
from benchmarks.timing import cpu_seconds
from captum_kmex import KMExAttribution, LayerKMeansAttribution
from captum_kmex.attributions.fitted_attribution import FittedAttribution
from captum_kmex.demo import DIGIT_LAYERS

_TABLE = "fit, cost over the forward passes"
_PATCHES = "patches found among the rows kept, digits"
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
        parts: Of each fit: the pass over the data, the last quarter of it, what follows.
    """

    build: Callable[[], FittedAttribution]
    batches: list[tuple[Tensor, Tensor]]
    parts: list[tuple[float, float, float]] = field(default_factory=list)

    def fit(self) -> FittedAttribution:
        """Fit once and note the parts."""
        loader = WatchedBatches(self.batches)
        start = time.process_time()
        fitted = self.build().fit(loader, classes=range(_CLASSES))
        total = time.process_time() - start
        (only,) = loader.passes
        sampling = only[-1] - only[0]
        self.parts.append((sampling, only[-1] - only[_late(self.batches)], total - sampling))
        return fitted


@pytest.mark.cases(short=_same_cases(), full=_same_cases())
def test_same_forward_passes_twice(case: Case, record: Recorder, is_full: bool) -> None:
    setting = make_setting(is_full, _BATCH)
    logits = record.against(setting.forward, {"forward": setting.forward}, _ROUNDS)
    torch.testing.assert_close(logits, setting.logits)


@pytest.mark.cases(short=_cases(), full=_cases())
@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")
def test_fit_step(case: FitStepCase, record: Recorder, is_full: bool) -> None:
    setting = make_setting(is_full, 128 if is_full else 16)
    labels = torch.arange(len(setting.images)) % _CLASSES
    batches = list(zip(setting.images.split(_BATCH), labels.split(_BATCH), strict=True))

    def forward() -> None:
        with torch.inference_mode():
            for images, _ in batches:
                setting.model(images)

    watch = FitWatch(lambda: case.build(setting.model), batches)
    watches = {"subject": cpu_seconds(watch.fit), "forward": cpu_seconds(forward)}
    seconds = record.interleave(watches, _ROUNDS)
    record.seconds(seconds)
    fitted = record.once(watch.fit)
    _check(fitted, len(setting.images) // _CLASSES, case.is_pooled, setting.images.shape[-1])
    sampling, late, solve = (median(part) for part in zip(*watch.parts, strict=True))
    forwards = median(seconds["forward"])
    share = len(batches[_late(batches) :]) / len(batches)
    record.values(
        sampling_over_forward=sampling / forwards,
        late_over_forward=late / (share * forwards),
        solve_over_pass=solve / sampling,
        images=len(setting.images),
    )


@dataclass(frozen=True)
class PatchCase(Case):
    """So many digits, prototypes of each class, and bytes for the sample."""

    images: int
    k: int
    memory_budget: int


def _patch_cases(images: int) -> list[PatchCase]:
    budgets = {"default budget": 2**31, "3,000 rows a class": 3000 * 12_500}
    return [
        PatchCase(_PATCHES, f"k={k}, {name}", images, k, budget)
        for k in (5, 10)
        for name, budget in budgets.items()
    ]


@pytest.mark.cases(short=_patch_cases(200)[:1], full=_patch_cases(3500))
@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")
def test_patches_of_the_sample_are_nearly_those_of_all_rows(
    case: PatchCase, record: Recorder
) -> None:
    pixels = mnist.load_data().train
    digits = DataLoader(Subset(pixels, range(case.images)), 100)
    model = load_small_resnet("mnist", 1, 10)

    def distances(search: str) -> Tensor:
        fitted = LayerKMeansAttribution(model, list(DIGIT_LAYERS), n_prototypes=case.k)
        fitted.fit(digits, patch_search=search, memory_budget=case.memory_budget)
        found = fitted.bank_.codebooks[0]
        kept = fitted.bank_.provenance["rows_kept"], fitted.bank_.provenance["rows_seen"]
        shares.append(sum(kept[0]) / sum(kept[1]))
        return found.representatives.distances

    shares: list[float] = []
    ours, exact = record.once(lambda: distances("sample")), distances("exact")
    assert torch.all(ours >= exact * 0.999)  # of squares that were rounded
    ratio = float((ours / exact).median())
    record.values(distance=ratio, rows_kept=shares[0])
    if case.memory_budget == 2**31:
        assert ratio <= 1.05


def _check(fitted: FittedAttribution, images: int, is_pooled: bool, side: int) -> None:
    """Assert that clusters hold all rows of a class, or as many as are kept, and patches."""
    rows = images if is_pooled else images * (side // 8) ** 2
    for book in fitted.bank_.codebooks[:1]:
        for c in range(_CLASSES):
            assert int(book.counts[book.of_class(c)].sum()) == min(rows, _CAP)
        assert torch.isfinite(book.centroids).all()
        assert book.representatives is not None
