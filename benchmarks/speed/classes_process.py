"""Fit on generated images of many classes in a process of its own; print time, memory and sizes.

Run as ``python -m benchmarks.speed.classes_process NETWORK CLASSES IMAGES``, images of each class.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torchvision
from torch import Tensor, nn

from benchmarks.speed.fit_process import peak_bytes
from benchmarks.speed.setting import LAYERS
from captum_kmex import LayerKMeansAttribution
from captum_kmex.exceptions import FewRowsWarning

__all__ = ["main"]

_SIDE = 64
_BATCH = 50
_EVERY = 10  # batches of which one is also run through the bare model
_MIB = 2**20


class TimedImages:
    """Batches that exist only while they are used; every tenth is timed in the bare model too.

    Attributes:
        own_seconds: CPU time spent here, which is no part of a fit.
        forward_seconds: CPU time of the bare forward passes, of those batches.
        end: CPU time of the process when the batches were exhausted.
    """

    def __init__(self, model: nn.Module, classes: int, each: int) -> None:
        self._model, self._classes, self._count = model, classes, classes * each
        self.own_seconds = self.forward_seconds = self.end = 0.0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (N, 3, 64, 64), a coarse pattern of the class under noise, and labels."""
        generator = torch.Generator().manual_seed(0)
        patterns = torch.randn(self._classes, 3, 8, 8, generator=generator)
        for number, start in enumerate(range(0, self._count, _BATCH)):
            began = time.process_time()
            labels = torch.arange(start, min(start + _BATCH, self._count)) % self._classes
            images = nn.functional.interpolate(patterns[labels], size=(_SIDE, _SIDE))
            images += torch.randn(images.shape, generator=generator)
            if number % _EVERY == 0:
                self.forward_seconds += self._forward(images)
            self.own_seconds += time.process_time() - began
            yield images, labels
        self.end = time.process_time()

    def _forward(self, images: Tensor) -> float:
        began = time.process_time()
        with torch.inference_mode():
            self._model(images)
        return time.process_time() - began


def main(network: str, classes: int, each: int) -> None:
    """Fit once, and print what it took."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FewRowsWarning)
    torch.manual_seed(0)
    model = torchvision.models.get_model(network, num_classes=classes).eval()
    attribution = LayerKMeansAttribution(model, list(LAYERS))
    attribution.attribute(torch.randn(_BATCH, 3, _SIDE, _SIDE))
    before = peak_bytes()
    images = TimedImages(model, classes, each)
    began = time.process_time()
    attribution.fit(images)
    solve = time.process_time() - images.end
    reading = images.end - began - images.own_seconds
    with TemporaryDirectory() as folder:
        path = Path(folder) / "bank.safetensors"
        attribution.save(path)
        bank = path.stat().st_size
    finest = attribution.bank_.codebooks[0]
    found = {
        "images": classes * each,
        "over_forward": reading / (images.forward_seconds * _EVERY),
        "image_ms": 1000 * reading / (classes * each),
        "solve_s": solve,
        "before_mib": before / _MIB,
        "peak_mib": peak_bytes() / _MIB,
        "rows_a_class": float(finest.counts.sum()) / classes,
        "bank_mib": bank / _MIB,
        "prototypes": len(finest.centroids),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
