"""What a report of many classes takes to write."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.speed.cases import Case
from benchmarks.speed.recorder import Recorder
from benchmarks.speed.setting import LAYERS, make_setting
from captum_kmex import LayerKMeansAttribution
from captum_kmex.report import write_report

_TABLE = "report of 8 images"
_ROUNDS = 3
_MIB = 2**20


@dataclass(frozen=True)
class ReportCase(Case):
    """So many classes, five prototypes each at each depth."""

    classes: int


def _cases(*counts: int) -> list[ReportCase]:
    return [ReportCase(_TABLE, f"{count} classes x 5 x {len(LAYERS)}", count) for count in counts]


@pytest.mark.cases(short=_cases(3), full=_cases(10, 200))
@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")
@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewPixelsWarning")
def test_write_report(case: ReportCase, record: Recorder, tmp_path: Path) -> None:
    setting = make_setting(is_full=False, batch=8)  # the network is small: its passes are few
    images = torch.randn(2 * case.classes, *setting.images.shape[1:])
    train_set = TensorDataset(images, torch.arange(len(images)) % case.classes)
    attribution = LayerKMeansAttribution(setting.model, list(LAYERS))
    attribution.fit(DataLoader(train_set, 32), classes=range(case.classes))
    path = tmp_path / "report.html"

    def write() -> None:
        write_report(
            attribution, TensorDataset(setting.images), path, train_set=train_set,
            show_progress=False,
        )  # fmt: skip

    record.against(write, {"forward": setting.forward}, _ROUNDS)
    page = path.read_text()
    prototypes = sum(len(book.centroids) for book in attribution.bank_.codebooks)
    assert prototypes == 5 * case.classes * len(LAYERS)
    assert len(re.findall("data:image", page)) > len(setting.images)
    record.values(prototypes=prototypes, file_mib=path.stat().st_size / _MIB)
