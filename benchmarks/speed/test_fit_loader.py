"""A whole fit from a loader with processes of its own, by the clock, beside the forward passes."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from dataclasses import dataclass

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.speed.cases import Case
from benchmarks.speed.recorder import Recorder
from benchmarks.speed.setting import LAYERS, make_setting
from benchmarks.timing import wall_seconds
from captum_kmex import LayerKMeansAttribution

_TABLE = "fit from a loader, by the clock"
_BATCH = 8
_ROUNDS = 2


@dataclass(frozen=True)
class LoaderCase(Case):
    """So many images from a loader with so many processes."""

    images: int
    workers: int


def _cases(*counts: int) -> list[LoaderCase]:
    return [
        LoaderCase(_TABLE, f"{count} images, {workers} workers, progress shown", count, workers)
        for count in counts
        for workers in (0, 2)
    ]


@pytest.mark.cases(short=_cases(16), full=_cases(64))
@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")
def test_fit_loader(case: LoaderCase, record: Recorder, is_full: bool) -> None:
    setting = make_setting(is_full, case.images)
    labels = torch.zeros(case.images, dtype=torch.int64)
    data = TensorDataset(setting.images, labels)

    def forward() -> None:
        with torch.inference_mode():
            for images in setting.images.split(_BATCH):
                setting.model(images)

    def fit(workers: int = case.workers) -> LayerKMeansAttribution:
        attribution = LayerKMeansAttribution(setting.model, list(LAYERS))
        loader = DataLoader(data, _BATCH, num_workers=workers)
        with redirect_stderr(io.StringIO()):  # where progress is shown
            return attribution.fit(loader, classes=[0], show_progress=True)

    record.compare({"subject": wall_seconds(fit), "forward": wall_seconds(forward)}, _ROUNDS)
    found = record.once(fit).bank_.codebooks
    for own, plain in zip(found, fit(0).bank_.codebooks, strict=True):
        assert torch.equal(own.centroids, plain.centroids)
