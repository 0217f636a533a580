"""Class activation maps of 2022 to 2026: of several layers, of several classes, by Shapley values.

Three run in pytorch-grad-cam, at its defaults; Recipro-CAM, which is in no package that can be
installed beside it, is written from the paper.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from benchmarks.methods.grad_cam_package import GradCamPackage
from benchmarks.quality.method import Method
from benchmarks.quality.task import Task
from captum_kmex.model.cut import Cut

__all__ = ["METHODS"]

_PACKAGE = "pytorch-grad-cam"
_NEAR = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
_AT_ONCE = 64


class FinerCam(GradCamPackage):
    """Grad-CAM of the class's logit less those of the three classes next to it."""

    def __init__(self) -> None:
        super().__init__(
            pytorch_grad_cam.FinerCAM, f"Zhang et al. (2025), {_PACKAGE} FinerCAM", passes=3
        )

    def _map(self, image: Tensor, target: int) -> Tensor:
        cam = self._kind(self._model, [self._layer])
        try:
            found = cam(input_tensor=image, target_idx=target)
        finally:
            cam.base_cam.activations_and_grads.release()
        return torch.as_tensor(found, dtype=torch.float32)


class RefineCam(GradCamPackage):
    """The product of the Grad-CAM++ maps of several layers."""

    def __init__(self) -> None:
        super().__init__(
            pytorch_grad_cam.RefineCAM, f"RefineCAM (2026), {_PACKAGE} RefineCAM", passes=9
        )

    def fit(self, task: Task, seed: int) -> None:
        super().fit(task, seed)
        self._layers = [self._model.get_submodule(name) for name in task.layers]

    def _map(self, image: Tensor, target: int) -> Tensor:
        cam = self._kind(self._model, self._layers)
        try:
            found = cam(input_tensor=image, targets=[ClassifierOutputTarget(target)])
        finally:
            for base in cam.base_cam_per_layer:
                base.activations_and_grads.release()
        return torch.as_tensor(found, dtype=torch.float32)


class ReciproCam(Method):
    """The class's probability with a cell of the deepest map kept, and its neighbours in part.

    The network behind the layer is run once for each cell; no gradients.
    """

    family = "gradient-free"
    source = "Byun & Lee (2022), Recipro-CAM with the paper's 3x3 mask"
    passes = 2

    def fit(self, task: Task, seed: int) -> None:
        self.read(task.model, task.layers[-1])

    def read(self, model: nn.Module, layer: str) -> None:
        """Take the model and the layer whose cells are kept."""
        self._model, self._layer = copy.deepcopy(model), layer

    @torch.no_grad()
    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.stack([self._map(x, t) for x, t in zip(inputs, targets, strict=True)])

    def _map(self, image: Tensor, target: Tensor) -> Tensor:
        cut = Cut(self._model, (image[None],), layer=self._layer)
        features = cut.features
        height, width = features.shape[2:]
        cells = torch.eye(height * width).view(-1, 1, height, width)
        masks = torch.nn.functional.conv2d(cells, _NEAR[None, None], padding=1)
        logits = torch.cat([cut.logits(features * some) for some in masks.split(_AT_ONCE)])
        found = logits.softmax(1)[:, target].view(height, width)
        return (found - found.min()) / (found.max() - found.min()).clamp_min(1e-12)


METHODS: dict[str, Callable[[], Method]] = {
    "FinerCAM": FinerCam,
    "RefineCAM": RefineCam,
    "ShapleyCAM": partial(
        GradCamPackage,
        pytorch_grad_cam.ShapleyCAM,
        f"Cai (2025), {_PACKAGE} ShapleyCAM",
        5,  # a gradient of a gradient
    ),
    "Recipro-CAM": ReciproCam,
}
