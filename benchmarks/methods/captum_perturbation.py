"""Captum's occlusion: the logit's drop when a window turns to the mean colour."""

from __future__ import annotations

from collections.abc import Callable

import torch
from captum.attr import Occlusion
from torch import Tensor

from benchmarks.methods.captum_gradients import Attribute, CaptumMethod
from benchmarks.quality.method import Method
from benchmarks.quality.task import Task

__all__ = ["METHODS"]

_WINDOWS = 9  # along each side, if they stood side by side
_AT_ONCE = 8  # windows that run together: a matter of time, not of the result


class OcclusionMethod(CaptumMethod):
    """Windows of a ninth of the side, half overlapping, on all channels at once.

    Captum has no default window: 25 pixels with a stride of 13 at 224, 3 and 2 at 28.
    """

    source = "Zeiler & Fergus (2014), captum.attr.Occlusion"

    def fit(self, task: Task, seed: int) -> None:
        self._side = task.sample("validation", 1).inputs.shape[-1]
        self._window = round(self._side / _WINDOWS)
        self._stride = -(-self._window // 2)
        self.passes = 1 + (-(-(self._side - self._window) // self._stride) + 1) ** 2
        super().fit(task, seed)

    def _prepare(self, task: Task) -> Attribute:
        occlusion = Occlusion(task.model)

        @torch.no_grad()
        def attribute(x: Tensor, target: Tensor) -> Tensor:
            window = (x.shape[1], self._window, self._window)
            strides = (x.shape[1], self._stride, self._stride)
            found: Tensor = occlusion.attribute(
                x, window, strides=strides, target=target, perturbations_per_eval=_AT_ONCE
            )
            return found[:, :1]  # a window takes all channels: each has the whole drop

        return attribute


METHODS: dict[str, Callable[[], Method]] = {"Occlusion": OcclusionMethod}
