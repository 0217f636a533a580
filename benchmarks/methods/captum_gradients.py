"""Captum's methods by gradients and by rules of propagation, at their own defaults.

Attributions of the input's shape become maps by one rule, that of Captum's visualiser: channels
are added up. Sensitivities, which are not multiplied by the input and whose sign says only which
way a pixel should change, are absolute values before: ``Saliency``, where that is Captum's
default, and ``GuidedGradCam``. Where a method wants a baseline it is Captum's own, zero: the mean
colour, as inputs are standardised.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable

import torch
from captum.attr import (
    LRP,
    DeepLift,
    GuidedGradCam,
    InputXGradient,
    IntegratedGradients,
    LayerGradCam,
    LayerLRP,
    Saliency,
)
from captum.attr._utils.custom_modules import Addition_Module
from torch import Tensor

from benchmarks.methods.systems.plain_modules import (
    activation_names,
    last_module,
    with_plain_modules,
)
from benchmarks.quality.method import Method, UnavailableError
from benchmarks.quality.task import Task

__all__ = ["METHODS"]

Attribute = Callable[[Tensor, Tensor], Tensor]  # images (N, C, H, W) and classes (N,)


class CaptumMethod(Method):
    """One of Captum's attributions; a subclass sets it up for a task."""

    family = "Captum"

    def fit(self, task: Task, seed: int) -> None:
        self._attribute = self._prepare(task)

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore", UserWarning)  # that it sets hooks, and on what
            return self._attribute(inputs.clone(), targets).detach().sum(1)

    @abstractmethod
    def _prepare(self, task: Task) -> Attribute:
        """Return what attributes the logits of the targets to the images or to a layer."""


class GradCam(CaptumMethod):
    """Grad-CAM at the deepest layer, signed as Captum leaves it."""

    source = "Selvaraju et al. (2017), captum.attr.LayerGradCam"
    passes = 3

    def _prepare(self, task: Task) -> Attribute:
        cam = LayerGradCam(task.model, task.model.get_submodule(task.layers[-1]))
        return lambda x, target: cam.attribute(x, target)


class GuidedGradCamMethod(CaptumMethod):
    """Absolute values of guided backpropagation times Grad-CAM."""

    source = "Selvaraju et al. (2017), captum.attr.GuidedGradCam"
    passes = 6

    def _prepare(self, task: Task) -> Attribute:
        _refuse(task, {"ReLU"}, "guided backpropagation", "the plain gradient")
        cam = GuidedGradCam(task.model, task.model.get_submodule(task.layers[-1]))
        return lambda x, target: cam.attribute(x, target).abs()


class SaliencyMethod(CaptumMethod):
    """Absolute values of the gradient."""

    source = "Simonyan et al. (2014), captum.attr.Saliency"
    passes = 3

    def _prepare(self, task: Task) -> Attribute:
        saliency = Saliency(task.model)
        return lambda x, target: saliency.attribute(x, target)


class InputTimesGradient(CaptumMethod):
    """The gradient times the standardised input."""

    source = "Shrikumar et al. (2016), captum.attr.InputXGradient"
    passes = 3

    def _prepare(self, task: Task) -> Attribute:
        product = InputXGradient(task.model)
        return lambda x, target: product.attribute(x, target)


class IntegratedGradientsMethod(CaptumMethod):
    """Integrated gradients from the mean colour, 50 steps."""

    source = "Sundararajan et al. (2017), captum.attr.IntegratedGradients"
    passes = 150

    def _prepare(self, task: Task) -> Attribute:
        integrated = IntegratedGradients(task.model)
        return lambda x, target: integrated.attribute(
            x, target=target, internal_batch_size=_MOST_AT_ONCE
        )


class DeepLiftMethod(CaptumMethod):
    """DeepLIFT (rescale rule) against the mean colour."""

    source = "Shrikumar et al. (2017), captum.attr.DeepLift"
    passes = 6

    def _prepare(self, task: Task) -> Attribute:
        _refuse(task, _DEEP_LIFT_RULES, "DeepLift", "Input x Gradient")
        lift = DeepLift(with_plain_modules(task.model, Addition_Module))
        return lambda x, target: lift.attribute(x, target=target)


class LayerwiseRelevance(CaptumMethod):
    """Layer-wise relevance propagation with Captum's default rules, epsilon everywhere.

    Args:
        position: Which of the task's layers to stop at; ``None`` goes down to the pixels.
    """

    passes = 8

    def __init__(self, position: int | None = None) -> None:
        self._position = position
        name = "LRP" if position is None else "LayerLRP"
        self.source = f"Bach et al. (2015), captum.attr.{name}"

    def _prepare(self, task: Task) -> Attribute:
        twin = with_plain_modules(task.model, Addition_Module)
        if self._position is None:
            relevance = LRP(twin)
        else:
            relevance = LayerLRP(twin, last_module(twin, task.layers[self._position]))
        return lambda x, target: _without_rule(lambda: relevance.attribute(x, target))


def _refuse(task: Task, known: set[str], name: str, instead: str) -> None:
    """Refuse a network on whose activations Captum would silently do something else."""
    unknown = sorted(activation_names(task.model) - known)
    if unknown:
        kinds = ", ".join(unknown)
        raise UnavailableError(f"Captum's {name} has no rule for {kinds}: it gives {instead}")


def _without_rule(attribute: Callable[[], Tensor]) -> Tensor:
    """Turn Captum's refusal of a layer into a reason."""
    try:
        return attribute()
    except TypeError as error:
        if "has no rule defined" not in str(error):
            raise
        kind = str(error).partition("<class '")[2].partition("'")[0].rpartition(".")[2]
        raise UnavailableError(f"Captum's LRP has no rule for {kind}") from error


_MOST_AT_ONCE = 16  # steps that run together: a matter of memory, not of the result
_DEEP_LIFT_RULES = {"ReLU", "ELU", "LeakyReLU", "Sigmoid", "Tanh", "Softplus", "Softmax"}
METHODS: dict[str, Callable[[], Method]] = {
    "Grad-CAM": GradCam,
    "Guided Grad-CAM": GuidedGradCamMethod,
    "Saliency": SaliencyMethod,
    "Input x Gradient": InputTimesGradient,
    "Integrated Gradients": IntegratedGradientsMethod,
    "DeepLIFT": DeepLiftMethod,
    "LRP": LayerwiseRelevance,
    "LRP, layer B2": lambda: LayerwiseRelevance(0),
}
