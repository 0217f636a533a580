"""zennit's composites of propagation rules, at their own defaults.

Batch normalisations are merged into the convolutions before them, and residual sums are split in
proportion to their terms (its ``ResNetCanonizer`` for any network, through plain modules).
Relevance is added up over channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zennit.attribution import Gradient
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonGammaBox, EpsilonPlusFlat
from zennit.core import Composite
from zennit.layer import Sum

from benchmarks.methods.systems.plain_modules import with_plain_modules
from benchmarks.quality.method import Method
from benchmarks.quality.task import Task

__all__ = ["METHODS"]

MakeComposite = Callable[[Task, Tensor], Composite]  # of a task and its images


class ResidualSum(nn.Module):
    """Adds two tensors by zennit's ``Sum``, whose rule the composites know."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = Sum()

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the sum of two maps."""
        total: Tensor = self.sum(torch.stack([one, other], -1))
        return total


class ZennitMethod(Method):
    """Relevance of one composite, from a start of one at the target.

    Args:
        make: Makes the composite.
        name: Name of the composite.
        passes: Passes it takes: its rules run each layer several times.
    """

    family = "zennit"

    def __init__(self, make: MakeComposite, name: str, passes: float) -> None:
        self._make, self.passes = make, passes
        self.source = f"Montavon et al. (2019), zennit {name}"

    def fit(self, task: Task, seed: int) -> None:
        self._task = task
        self._model = with_plain_modules(task.model, ResidualSum)

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        start = F.one_hot(targets, self._task.n_classes).to(inputs)
        composite = self._make(self._task, inputs)
        with torch.enable_grad(), Gradient(self._model, composite) as attributor:
            relevance: Tensor = attributor(inputs.clone(), start)[1]
        return relevance.detach().sum(1)


def plus_flat(_task: Task, _inputs: Tensor) -> Composite:
    """Return epsilon for the head, z-plus for convolutions, flat for the first."""
    return EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()])


def gamma_box(task: Task, inputs: Tensor) -> Composite:
    """Return epsilon for the head, gamma for convolutions, z-box for the first.

    The box is what a standardised picture can be: black and white, channel by channel.
    """
    shape = (1, -1, 1, 1)
    mean, std = (torch.tensor(v).view(shape).to(inputs) for v in (task.mean, task.std))
    black, white = ((v - mean) / std for v in (0.0, 1.0))
    return EpsilonGammaBox(
        low=black.expand_as(inputs),
        high=white.expand_as(inputs),
        canonizers=[SequentialMergeBatchNorm()],
    )


METHODS: dict[str, Callable[[], Method]] = {
    "EpsilonPlusFlat": lambda: ZennitMethod(plus_flat, "EpsilonPlusFlat", 8),
    "EpsilonGammaBox": lambda: ZennitMethod(gamma_box, "EpsilonGammaBox", 16),
}
