"""Class activation maps, each called as its own documentation does, at its own defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import Tensor

from benchmarks.layer_outputs import layer_outputs
from benchmarks.methods.newer_cams import ReciproCam
from benchmarks.speed.rival import Rival, to_unit
from benchmarks.speed.setting import Setting, deepest_map

__all__ = ["GradCamPackage", "GradCams", "LayerCams", "ReciproCams", "RefineCams"]


class GradCams(Rival):
    """Captum's ``LayerGradCam``, one call a layer."""

    def __init__(self, setting: Setting, layers: Sequence[str]) -> None:
        super().__init__(setting)
        self._layers = layers
        self._calls = [LayerGradCam(self.model, self.model.get_submodule(name)) for name in layers]

    def __call__(self) -> list[Tensor]:
        """Return one map a layer."""
        images, target = self.setting.images, self.setting.target
        return [cam.attribute(images, target) for cam in self._calls]

    def check(self, result: list[Tensor]) -> None:
        """Compare with plain autograd; at the deepest layer with our map, which is the same."""
        pairs = self.gradients(self._layers)
        for cam, (activation, gradient) in zip(result, pairs, strict=True):
            expected = (gradient.mean((2, 3), keepdim=True) * activation).sum(1, keepdim=True)
            torch.testing.assert_close(cam.detach(), expected)
        if self._layers[-1] == "layer4":
            torch.testing.assert_close(result[-1].detach(), deepest_map(self.setting))


class LayerCams(Rival):
    """torchcam's ``LayerCAM`` of all stacked layers in one call."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._extract = _torchcam_method("LayerCAM")(self.model, list(setting.layers))

    def __call__(self) -> list[Tensor]:
        """Return one normalised map a layer."""
        logits = self.model(self.setting.images)
        maps: list[Tensor] = self._extract(self.setting.target.tolist(), logits)
        return maps

    def check(self, result: list[Tensor]) -> None:
        """Compare with plain autograd, brought to [0, 1] image by image."""
        pairs = self.gradients(self.setting.layers)
        for cam, (activation, gradient) in zip(result, pairs, strict=True):
            expected = to_unit((gradient.relu() * activation).sum(1).relu())
            torch.testing.assert_close(cam, expected, atol=1e-4, rtol=1e-4)


class RefineCams(Rival):
    """torchcam's ``RefineCAM``: the product of the Grad-CAM++ maps of all stacked layers."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._extract = _torchcam_method("RefineCAM")(self.model, list(setting.layers))

    def __call__(self) -> Tensor:
        """Return one map an image, on the finest grid."""
        logits = self.model(self.setting.images)
        (maps,) = self._extract(self.setting.target.tolist(), logits)
        return cast("Tensor", maps)

    def check(self, result: Tensor) -> None:
        """Multiply the maps of the layers, each resized and in [0, 1]."""
        extract = _torchcam_method("GradCAMpp")(self.model, list(self.setting.layers))
        maps = extract(self.setting.target.tolist(), self.model(self.setting.images))
        extract.remove_hooks()
        product = torch.ones_like(result)
        for cam in maps:
            unit = to_unit(cam)[:, None]
            product *= F.interpolate(unit, result.shape[1:], mode="bilinear").squeeze(1)
        torch.testing.assert_close(result, to_unit(product), atol=1e-4, rtol=1e-3)


class GradCamPackage(Rival):
    """pytorch-grad-cam's ``GradCAM`` at the deepest layer, resized to the input."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        package = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
        targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
        self._cam = package.GradCAM(self.model, [self.model.get_submodule("layer4")])
        self._targets = [targets.ClassifierOutputTarget(c) for c in setting.target.tolist()]

    def __call__(self) -> object:
        """Return maps (N, H, W) in [0, 1], a NumPy array."""
        return self._cam(input_tensor=self.setting.images, targets=self._targets)

    def check(self, result: object) -> None:
        """Compare with our deepest map: rectified, brought to [0, 1], resized."""
        images = self.setting.images
        ours = deepest_map(self.setting)
        resized = F.interpolate(to_unit(ours.relu()), images.shape[2:], mode="bilinear")
        expected = to_unit(resized.squeeze(1))
        torch.testing.assert_close(torch.as_tensor(result), expected, atol=1e-3, rtol=1e-3)


class ReciproCams(Rival):
    """Recipro-CAM at the deepest layer, as it is compared elsewhere."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._method = ReciproCam()
        self._method.read(self.model, setting.layers[-1])

    def __call__(self) -> Tensor:
        """Return maps (N, h, w) in [0, 1]."""
        return self._method.maps(self.setting.images, self.setting.target)

    def check(self, result: Tensor) -> None:
        """Recompute cell by cell, behind the layer by the head alone."""
        setting = self.setting
        (features,) = layer_outputs(setting.model, ["layer4"], setting.images)
        expected = torch.empty_like(result)
        for row in range(result.shape[1]):
            for column in range(result.shape[2]):
                weights = torch.zeros(result.shape[1] + 2, result.shape[2] + 2)
                near = torch.tensor([1.0, 2.0, 1.0])
                weights[row : row + 3, column : column + 3] = near[:, None] * near / 16
                pooled = (features * weights[1:-1, 1:-1]).mean((2, 3))
                chances = setting.head(pooled).softmax(1)
                expected[:, row, column] = chances.gather(1, setting.target[:, None]).squeeze(1)
        torch.testing.assert_close(result, to_unit(expected), atol=1e-3, rtol=1e-3)


def _torchcam_method(name: str) -> Any:
    """Return a class of torchcam, or skip the row."""
    methods = pytest.importorskip("torchcam.methods", reason="torchcam is not installed")
    if not hasattr(methods, name):
        pytest.skip(f"not available: this torchcam has no {name}")
    return getattr(methods, name)
