"""The tail alone: from kept activations to the finished map, without the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.speed.setting import Setting, fitted, unfitted
from benchmarks.timing import cpu_seconds
from captum_kmex import LayerKMeansAttribution
from captum_kmex.explaining.evidence import finish_map
from captum_kmex.model.reading import plain_arithmetic

__all__ = ["AfterForward", "Tail", "kept_reading"]


@contextmanager
def kept_reading(attribution: LayerKMeansAttribution, images: Tensor) -> Iterator[None]:
    """Read the network once; what is asked of these images in the block needs no forward pass."""
    reading = attribution.read(images).reading
    target = "captum_kmex.attributions.prototype_attribution.read"
    with patch(target, lambda *_, **__: reading):
        yield


class Tail:
    """What ``attribute`` does after the forward pass, again and again on one pass.

    Args:
        setting: What to explain.
        n_prototypes: Prototypes of the bank; 0 clusters each image by itself.
        n_clusters: Its clusters then.
    """

    def __init__(self, setting: Setting, n_prototypes: int, n_clusters: int = 5) -> None:
        self._setting = setting
        self.attribution = (
            fitted(setting, n_prototypes) if n_prototypes else unfitted(setting, n_clusters)
        )
        self._explainer = self.attribution.read(setting.images)

    def __call__(self) -> Tensor:
        """Return the maps (N, 1, h, w)."""
        images = self._setting.images
        explainer = replace(self._explainer)  # which has not stacked the layers yet
        with torch.no_grad(), plain_arithmetic(images):
            question = explainer.question(self._setting.target)
            *_, finest = explainer.evidence([question])
            return finish_map(finest.densities[0], images, None, sums=True)

    @property
    def blocks(self) -> list[Tensor]:
        """The activations, shallow to deep."""
        return list(self._explainer.reading.blocks)

    def labels(self, depth: int) -> Tensor:
        """Return the segment of each pixel (N*H*W,) at one depth."""
        return self._explainer.segments(depth).labels.flatten()


class AfterForward:
    """A stopwatch of a tail, which finds the caches as a forward pass leaves them.

    Args:
        setting: Its forward pass is run first, every time.
        call: The tail.

    Attributes:
        forwards: Seconds of the forward pass of every run.
    """

    def __init__(self, setting: Setting, call: Callable[[], object]) -> None:
        self._forward = cpu_seconds(setting.forward)
        self._call = cpu_seconds(call)
        self.forwards: list[float] = []

    def __call__(self) -> float:
        """Return the seconds of the tail."""
        self.forwards.append(self._forward())
        return self._call()
