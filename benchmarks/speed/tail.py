"""The tail alone: from kept activations to the finished map, without the forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor

from benchmarks.layer_outputs import layer_outputs
from benchmarks.speed.setting import Setting, fitted, unfitted
from benchmarks.timing import cpu_seconds
from captum_kmex import LayerKMeansAttribution

__all__ = ["AfterForward", "Tail", "keep_reading"]


def keep_reading(attribution: LayerKMeansAttribution, images: Tensor) -> None:
    """Read the network once; all that follows on these images goes without a forward pass."""
    passed = attribution._pass((images,), None, False)
    attribution._pass = lambda *_: passed  # type: ignore[method-assign]


class Tail:
    """What ``attribute`` does after the forward pass, again and again on one pass.

    Args:
        setting: What to explain.
        n_prototypes: Prototypes of the bank; 0 clusters each image by itself.
    """

    def __init__(self, setting: Setting, n_prototypes: int) -> None:
        self._setting = setting
        self.blocks = layer_outputs(setting.model, setting.layers, setting.images)
        self.attribution = fitted(setting, n_prototypes) if n_prototypes else unfitted(setting)
        keep_reading(self.attribution, setting.images)

    def __call__(self) -> Tensor:
        """Return the maps (N, 1, h, w)."""
        images, target = self._setting.images, self._setting.target
        return cast("Tensor", self.attribution.attribute(images, target))

    def labels(self, depth: int) -> Tensor:
        """Return the segment of each pixel (N*H*W,) at one depth."""
        return self.attribution.segment(self._setting.images, depth=depth).flatten()


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
