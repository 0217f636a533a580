"""The memory of a fit does not grow with the number of images."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from nets import make_net
from processes import finish, needs_processes, start

from captum_kmex import KMExAttribution, LayerKMeansAttribution

resource = pytest.importorskip("resource")
BATCH = 20


class Drawn:
    """Images drawn when they are asked for, the same in every pass."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(BATCH) % 3
        for _ in range(self.count // BATCH):
            yield torch.rand(BATCH, 1, 32, 32, generator=generator), labels


def save_peak(path: Path, kind: str, count: int) -> None:
    """Fit in this process, and write down its greatest resident memory."""
    warnings.simplefilter("ignore")
    attribution = {
        "kmex": lambda: KMExAttribution(make_net(), n_prototypes=3),
        "layers": lambda: LayerKMeansAttribution(make_net(), ["stage2", "stage3"], n_prototypes=3),
    }[kind]()
    attribution.fit(Drawn(count), n_init=2, refine=1, memory_budget=2**20)
    path.write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


@needs_processes
@pytest.mark.parametrize(
    "factor", [10, pytest.param(100, marks=pytest.mark.slow)], ids=["ten", "hundred"]
)
@pytest.mark.parametrize("kind", ["kmex", "layers"])
def test_peak_memory_does_not_grow_with_the_number_of_images(tmp_path, kind, factor):
    peaks = []
    for count in (120, 120 * factor):
        path = tmp_path / str(count)
        assert finish(start(save_peak, path, kind, count)) == 0
        peaks.append(int(path.read_text()))
    assert peaks[1] <= 1.05 * peaks[0]
