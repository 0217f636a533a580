"""Evidence by removal: ours, and RISE."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.quality.method import Method
from benchmarks.quality.task import Task
from captum_kmex import LayerKMeansAttribution, Measured

__all__ = ["METHODS"]

_AT_ONCE = 16


class MeasuredEvidence(Method):
    """B234 unfitted, its evidence measured.

    Args:
        n_layers: From how many of the task's layers parts are removed, besides the deepest.
        passes: Forward passes, about, as measured on EfficientNet-Lite0.
        budget: ``"full"``, ``"half"`` or ``"adaptive"``.
    """

    family = "captum_kmex"
    source = "captum_kmex"

    def __init__(self, n_layers: int, passes: float, budget: str = "full") -> None:
        self._n_layers, self.passes, self._budget = n_layers, passes, budget

    def fit(self, task: Task, seed: int) -> None:
        places = None if self._n_layers == 1 else task.layers[-1 - self._n_layers : -1]
        self._how = Measured(at=places, passes=self._budget)
        self.attribution = LayerKMeansAttribution(task.model, task.layers, seed=seed)

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        found = self.attribution.attribute(inputs, targets, evidence=self._how)
        assert isinstance(found, Tensor)
        return found[:, 0]

    def base(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self.attribution.explain(inputs, targets, evidence=self._how).bias

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self.attribution.segment(inputs, targets)


class Rise(Method):
    """Mean of random masks, weighted by the probability that is left (RISE).

    Args:
        n_masks: How many.
    """

    family = "Others"
    source = "Petsiuk et al. (2018), from the paper: 7 x 7 cells, each kept with probability 0.5"

    def __init__(self, n_masks: int) -> None:
        self.passes = n_masks

    def fit(self, task: Task, seed: int) -> None:
        self._model = task.model
        side, dice = task.sample("validation", 1).inputs.shape[-1], torch.Generator().manual_seed(0)
        cell = -(-side // 7)
        coarse = (torch.rand(int(self.passes), 1, 7, 7, generator=dice) < 0.5).float()
        grown = F.interpolate(coarse, (side + cell, side + cell), mode="bilinear")
        shifts = torch.randint(cell, (len(grown), 2), generator=dice).tolist()
        pairs = zip(grown, shifts, strict=True)
        self.masks = torch.stack([m[:, a : a + side, b : b + side] for m, (a, b) in pairs])

    @torch.no_grad()
    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.stack([self._one(x, t) for x, t in zip(inputs, targets, strict=True)])

    def _one(self, image: Tensor, target: Tensor) -> Tensor:
        parts = [self._model(image * some).softmax(1) for some in self.masks.split(_AT_ONCE)]
        weights = torch.cat(parts)[:, target]
        return torch.einsum("m,mhw->hw", weights, self.masks[:, 0]) / weights.sum()


METHODS: dict[str, Callable[[], Method]] = {
    "B234 measured": partial(MeasuredEvidence, 1, 27),
    "B234 measured, half": partial(MeasuredEvidence, 1, 17, "half"),
    "B234 measured, adaptive": partial(MeasuredEvidence, 1, 23, "adaptive"),
    "B234 measured, two layers": partial(MeasuredEvidence, 2, 63),
    "RISE, 100 masks": partial(Rise, 100),
}
