"""Fit on so many generated images in a process of its own, and print its memory.

Run as ``python -m benchmarks.speed.fit_process IMAGES``.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from captum_kmex import LayerKMeansAttribution
from captum_kmex.exceptions import FewRowsWarning

__all__ = ["CLASSES", "ROWS_AN_IMAGE", "ROW_BYTES"]

CLASSES = 5
ROWS_AN_IMAGE = 16 * 16
ROW_BYTES = 4 * (64 + 128)
_BATCH = 40


class GeneratedImages:
    """Batches that exist only while they are used, the same in every pass."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (N, 3, 32, 32) and labels (N,)."""
        generator = torch.Generator().manual_seed(0)
        for start in range(0, self._count, _BATCH):
            labels = torch.arange(start, min(start + _BATCH, self._count)) % CLASSES
            noise = torch.randn(len(labels), 3, 32, 32, generator=generator)
            yield noise + labels[:, None, None, None], labels


def small_network() -> nn.Module:
    """Return two strided convolutions and a linear head."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 64, 3, 2, 1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(64, 128, 3, 2, 1), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, CLASSES),
    ).eval()


def peak_bytes() -> int:
    """Return the peak resident size; ``getrusage`` would count a large parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main(count: int) -> None:
    """Print the peak before and after the fit, and the rows that it kept."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FewRowsWarning)
    attribution = LayerKMeansAttribution(small_network(), ["0", "1"])
    images, _ = next(iter(GeneratedImages(_BATCH)))
    attribution.attribute(images)  # libraries and buffers that are there without a fit
    before = peak_bytes()
    attribution.fit(GeneratedImages(count))
    kept = int(attribution.bank_.codebooks[0].counts.sum())
    print(json.dumps({"before": before, "after": peak_bytes(), "rows_kept": kept}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
