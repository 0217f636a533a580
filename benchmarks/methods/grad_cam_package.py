"""pytorch-grad-cam's maps at the deepest layer, and Deep Feature Factorization.

The package's own defaults: maps are rectified, brought to [0, 1] and to the image's size. It
leaves gradients in the network's parameters, so each method works on a copy.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from typing import Any

import numpy as np
import pytorch_grad_cam
import torch
from captum.attr import LayerActivation
from pytorch_grad_cam.feature_factorization.deep_feature_factorization import dff
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from benchmarks.quality.method import ConceptMaps, Method, UnavailableError
from benchmarks.quality.task import Task
from captum_kmex import ClassifierPrototypes

__all__ = ["METHODS"]

_FAMILY = "pytorch-grad-cam"


class GradCamPackage(Method):
    """One of the package's class activation maps.

    Args:
        kind: Its class.
        source: Who proposed it.
        passes: Passes an image.
    """

    family = _FAMILY

    def __init__(self, kind: Callable[..., Any], source: str, passes: float = 3) -> None:
        self._kind, self.source, self.passes = kind, source, passes

    def fit(self, task: Task, seed: int) -> None:
        self._model = copy.deepcopy(task.model)
        self._layer = self._model.get_submodule(task.layers[-1])

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.enable_grad(), redirect_stderr(io.StringIO()):  # its progress bars
            pairs = zip(inputs.split(1), targets.tolist(), strict=True)
            return torch.cat([self._map(x, target) for x, target in pairs])

    def _map(self, image: Tensor, target: int) -> Tensor:
        """Explain one image: the package keeps the activations of every pass it makes."""
        cam = self._kind(self._model, [self._layer])
        try:
            found = cam(input_tensor=image, targets=[ClassifierOutputTarget(target)])
        finally:
            cam.activations_and_grads.release()
        return torch.as_tensor(found, dtype=torch.float32)


class ScoreCam(GradCamPackage):
    """Score-CAM: one pass for every channel of the layer."""

    def __init__(self) -> None:
        super().__init__(pytorch_grad_cam.ScoreCAM, f"Wang et al. (2020), {_FAMILY} ScoreCAM")

    def fit(self, task: Task, seed: int) -> None:
        super().fit(task, seed)
        image = task.sample("validation", 1).inputs
        activations = LayerActivation(self._model, self._layer).attribute(image)
        self.passes = 1 + activations.shape[1]


class FeatureFactorization(Method):
    """Deep Feature Factorization of each image alone, with the package's five concepts.

    A pixel belongs to the concept whose heat map, brought to [0, 1] and to the image's size, is
    largest there, as the package draws it. The map of a class adds up the concepts' heat maps,
    each times its vector's product with the head's column: the share of the logit that the
    factorization keeps. No concept is shared by two images, so it gives no concept maps.
    """

    family = _FAMILY
    source = f"Collins et al. (2018), {_FAMILY} Deep Feature Factorization"
    n_concepts = 5

    def fit(self, task: Task, seed: int) -> None:
        self._layer = LayerActivation(task.model, task.model.get_submodule(task.layers[-1]))
        columns = ClassifierPrototypes(task.model)
        columns.attribute(task.sample("validation", 1).inputs)
        self._columns = columns.prototypes

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        pairs = zip(targets.tolist(), self._factorizations(inputs), strict=True)
        found = [
            torch.einsum("k,khw->hw", self._columns[target] @ vectors, heat)
            for target, (vectors, heat) in pairs
        ]
        return torch.stack(found) / found[0].numel()

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        size = tuple(inputs.shape[-1:-3:-1])  # width, height
        heats = [scale_cam_image(heat.numpy(), size) for _, heat in self._factorizations(inputs)]
        return torch.from_numpy(np.stack(heats)).argmax(1)

    def concepts(self, inputs: Tensor, targets: Tensor) -> ConceptMaps:
        raise UnavailableError("factorizes each image alone: no concept is shared")

    def _factorizations(self, inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
        with torch.no_grad():
            activations = self._layer.attribute(inputs)
        return [self._factorize(one) for one in activations.numpy()[:, None]]

    def _factorize(self, activations: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
        """Return vectors (D, K) and heat maps (K, h, w) whose product is near the map.

        The package takes each channel's least value away before and puts it on all vectors
        after; here it stays away, as it is no concept's own.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            vectors, heat = dff(activations, self.n_concepts)
        least = activations.min((0, 2, 3))
        return torch.from_numpy(vectors - least[:, None]), torch.from_numpy(heat[0])


_CAMS = {  # class, source, passes
    "Grad-CAM++": ("GradCAMPlusPlus", "Chattopadhay et al. (2018)", 3),
    "HiResCAM": ("HiResCAM", "Draelos & Carin (2020)", 3),
    "EigenCAM": ("EigenCAM", "Muhammad & Yeasin (2020)", 1),
    "LayerCAM": ("LayerCAM", "Jiang et al. (2021)", 3),
}
METHODS: dict[str, Callable[[], Method]] = {
    name: partial(
        GradCamPackage, getattr(pytorch_grad_cam, kind), f"{who}, {_FAMILY} {kind}", passes
    )
    for name, (kind, who, passes) in _CAMS.items()
}
METHODS |= {"Score-CAM": ScoreCam, "Deep Feature Factorization": FeatureFactorization}
