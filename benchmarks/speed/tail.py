"""The tail alone: from kept activations to the finished map, without the forward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.speed.setting import Setting
from benchmarks.timing import cpu_seconds
from captum_kmex import LayerKMeansAttribution
from captum_kmex.attributions.prototype_attribution import plain_arithmetic
from captum_kmex.explaining.evidence import finish_map
from captum_kmex.explaining.segmentation import SegmentOptions

__all__ = ["AfterForward", "Tail"]


class Tail:
    """What ``attribute`` does after the forward pass, again and again on one pass.

    Args:
        setting: What to explain.
        attribution: Fitted or not.
    """

    def __init__(self, setting: Setting, attribution: LayerKMeansAttribution) -> None:
        self._setting = setting
        self._attribution = attribution
        self._passed = attribution._pass((setting.images,), None, False)

    def __call__(self) -> Tensor:
        """Return the maps (N, 1, h, w)."""
        images = self._setting.images
        with torch.no_grad(), plain_arithmetic(images):
            evidence = self._attribution._explain(
                self._passed, self._setting.target, None, "logit", SegmentOptions()
            )
            return finish_map(evidence.density, images, None, sums=True)

    @property
    def blocks(self) -> list[Tensor]:
        """The activations, shallow to deep."""
        return [self._passed.features[name] for name in self._setting.layers]

    def labels(self, depth: int) -> Tensor:
        """Return the segment of each pixel (N*H*W,) at one depth."""
        stack = self._attribution._stack(self._passed)
        segments = self._attribution._segment(stack, depth, self._setting.target, SegmentOptions())
        return segments.labels.flatten()


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
