"""Captum's attributions of whole segments: on ours, on superpixels and on squares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from captum.attr import FeatureAblation, KernelShap
from skimage.segmentation import slic
from torch import Tensor

from benchmarks.quality.method import Method
from benchmarks.quality.task import Task
from captum_kmex import LayerKMeansAttribution

__all__ = ["METHODS", "AblationOfSegments", "ShapleyOnSegments", "squares", "superpixels"]

_AT_ONCE = 16  # changed pictures that run together: a matter of time, not of the result
_SUPERPIXELS, _SQUARES = 50, 7  # in all, and along each side
_SAMPLES = 100

Partition = Callable[[Tensor], Tensor]  # images (N, C, H, W) to their segments (N, H, W)


class OnSegments(Method):
    """What Captum says of each segment of a partition, spread evenly over its pixels.

    Args:
        partition: The partition; our unfitted B234 segments, twenty, if ``None``.
    """

    family = "Captum"

    def __init__(self, partition: Partition | None = None) -> None:
        self._given, self.seeded = partition, partition is None

    def fit(self, task: Task, seed: int) -> None:
        self._partition = self._given or _ours(task, seed)
        self._set_up(task)

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._partition(inputs)

    @torch.no_grad()
    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        triples = zip(inputs, targets.tolist(), self._partition(inputs), strict=True)
        return torch.stack([
            self._attribute(image[None], target, mask[None, None])[0, 0]
            / torch.bincount(mask.flatten())[mask]
            for image, target, mask in triples
        ])  # fmt: skip

    @abstractmethod
    def _set_up(self, task: Task) -> None:
        """Prepare Captum's attribution for the task's network."""

    @abstractmethod
    def _attribute(self, image: Tensor, target: int, mask: Tensor) -> Tensor:
        """Return each segment's value at its pixels (1, C, H, W), the same in all channels."""


class ShapleyOnSegments(OnSegments):
    """Captum's KernelShap, a hundred samples."""

    source = "Lundberg & Lee (2017), captum.attr.KernelShap"
    passes = _SAMPLES

    def _set_up(self, task: Task) -> None:
        self._shap, self._ablation = KernelShap(task.model), FeatureAblation(task.model)

    def _attribute(self, image: Tensor, target: int, mask: Tensor) -> Tensor:
        if not mask.any():  # Captum has no samples for one player alone, who is worth all
            return cast(Tensor, self._ablation.attribute(image, target=target, feature_mask=mask))
        torch.manual_seed(0)  # its samples
        found = self._shap.attribute(
            image, target=target, feature_mask=mask, n_samples=_SAMPLES,
            perturbations_per_eval=_AT_ONCE,
        )  # fmt: skip
        return cast(Tensor, found)


class AblationOfSegments(OnSegments):
    """Captum's FeatureAblation: what the logit loses without the segment."""

    source = "captum.attr.FeatureAblation"
    passes = 1 + _SUPERPIXELS

    def _set_up(self, task: Task) -> None:
        self._ablation = FeatureAblation(task.model)

    def _attribute(self, image: Tensor, target: int, mask: Tensor) -> Tensor:
        found = self._ablation.attribute(
            image, target=target, feature_mask=mask, perturbations_per_eval=_AT_ONCE
        )
        return cast(Tensor, found)


def superpixels(inputs: Tensor) -> Tensor:
    """Fifty SLIC superpixels (Achanta et al., 2012, skimage)."""
    pictures = inputs.permute(0, 2, 3, 1).double().numpy()
    found = [slic(x, _SUPERPIXELS, start_label=0, channel_axis=2) for x in pictures]
    return torch.stack([torch.from_numpy(labels) for labels in found])


def squares(inputs: Tensor) -> Tensor:
    """Seven squares a side, as equal as the pixels allow."""
    rows, columns = (torch.arange(n) * _SQUARES // n for n in inputs.shape[2:])
    return (rows[:, None] * _SQUARES + columns).expand(len(inputs), -1, -1)


def _ours(task: Task, seed: int) -> Partition:
    attribution = LayerKMeansAttribution(task.model, task.layers, seed=seed)
    return lambda inputs: attribution.feature_mask(inputs)[:, 0]


METHODS: dict[str, Callable[[], Method]] = {
    "KernelShap on superpixels": partial(ShapleyOnSegments, superpixels),
    "KernelShap on squares": partial(ShapleyOnSegments, squares),
    "KernelShap on B234 segments": ShapleyOnSegments,
    "FeatureAblation on superpixels": partial(AblationOfSegments, superpixels),
    "FeatureAblation on squares": partial(AblationOfSegments, squares),
    "FeatureAblation on B234 segments": AblationOfSegments,
}
