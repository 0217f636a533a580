"""The usual alternatives, each called as its own documentation does, at its own defaults."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, LayerGradCam, Occlusion, Saliency
from captum.concept import TCAV, Concept
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from benchmarks.speed.setting import Setting, deepest_map

__all__ = [
    "GradCamPackage",
    "GradCams",
    "IntegratedGradients50",
    "LayerCams",
    "LayerwiseRelevance",
    "OcclusionWindows",
    "PlainSaliency",
    "Tcav",
]

_WINDOWS = 5  # along each side
_CONCEPT_IMAGES = 20
_TCAV_LAYERS = ["layer3", "layer4"]


class _Rival:
    """A rival on its own copy of the model, as several leave hooks on it."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._model = copy.deepcopy(setting.model)

    def _gradients(self, names: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
        """Return activation and gradient of the logits at each layer, by plain autograd."""
        kept: dict[str, Tensor] = {}

        def keep(name: str) -> RemovableHandle:
            def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
                kept[name] = output

            return self._setting.model.get_submodule(name).register_forward_hook(hook)

        handles = [keep(name) for name in names]
        logits = self._setting.model(self._setting.images)
        for handle in handles:
            handle.remove()
        total = logits.gather(1, self._setting.target[:, None]).sum()
        gradients = torch.autograd.grad(total, [kept[name] for name in names])
        pairs = zip((kept[name] for name in names), gradients, strict=True)
        return [(activation.detach(), gradient) for activation, gradient in pairs]


class GradCams(_Rival):
    """Captum's ``LayerGradCam``, one call a layer."""

    def __init__(self, setting: Setting, layers: Sequence[str]) -> None:
        super().__init__(setting)
        self._layers = layers
        self._calls = [
            LayerGradCam(self._model, self._model.get_submodule(name)) for name in layers
        ]

    def __call__(self) -> list[Tensor]:
        """Return one map a layer."""
        images, target = self._setting.images, self._setting.target
        return [cam.attribute(images, target) for cam in self._calls]

    def check(self, result: list[Tensor]) -> None:
        """Compare with plain autograd; at the deepest layer with our map, which is the same."""
        pairs = self._gradients(self._layers)
        for cam, (activation, gradient) in zip(result, pairs, strict=True):
            expected = (gradient.mean((2, 3), keepdim=True) * activation).sum(1, keepdim=True)
            torch.testing.assert_close(cam.detach(), expected)
        if self._layers[-1] == "layer4":
            torch.testing.assert_close(result[-1].detach(), deepest_map(self._setting))


class LayerCams(_Rival):
    """torchcam's ``LayerCAM`` of all stacked layers in one call."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        methods = pytest.importorskip("torchcam.methods", reason="torchcam is not installed")
        self._extract = methods.LayerCAM(self._model, list(setting.layers))

    def __call__(self) -> list[Tensor]:
        """Return one normalised map a layer."""
        logits = self._model(self._setting.images)
        maps: list[Tensor] = self._extract(self._setting.target.tolist(), logits)
        return maps

    def check(self, result: list[Tensor]) -> None:
        """Compare with plain autograd, brought to [0, 1] image by image."""
        pairs = self._gradients(self._setting.layers)
        for cam, (activation, gradient) in zip(result, pairs, strict=True):
            expected = _to_unit((gradient.relu() * activation).sum(1).relu())
            torch.testing.assert_close(cam, expected, atol=1e-4, rtol=1e-4)


class GradCamPackage(_Rival):
    """pytorch-grad-cam's ``GradCAM`` at the deepest layer, resized to the input."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        package = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
        targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
        self._cam = package.GradCAM(self._model, [self._model.get_submodule("layer4")])
        self._targets = [targets.ClassifierOutputTarget(c) for c in setting.target.tolist()]

    def __call__(self) -> object:
        """Return maps (N, H, W) in [0, 1], a NumPy array."""
        return self._cam(input_tensor=self._setting.images, targets=self._targets)

    def check(self, result: object) -> None:
        """Compare with our deepest map: rectified, brought to [0, 1], resized."""
        images = self._setting.images
        ours = deepest_map(self._setting)
        resized = F.interpolate(_to_unit(ours.relu()), images.shape[2:], mode="bilinear")
        expected = _to_unit(resized.squeeze(1))
        torch.testing.assert_close(torch.as_tensor(result), expected, atol=1e-3, rtol=1e-3)


class PlainSaliency(_Rival):
    """Captum's ``Saliency``."""

    def __call__(self) -> Tensor:
        """Return maps of the input's shape."""
        maps: Tensor = Saliency(self._model).attribute(self._setting.images, self._setting.target)
        return maps

    def check(self, result: Tensor) -> None:
        """Compare with the gradient's absolute value."""
        images = self._setting.images.clone().requires_grad_()
        logits = self._setting.model(images)
        total = logits.gather(1, self._setting.target[:, None]).sum()
        expected = torch.autograd.grad(total, images)[0].abs()
        torch.testing.assert_close(result.detach(), expected)


class LayerwiseRelevance(_Rival):
    """zennit's ``EpsilonPlusFlat``: LRP with three rules."""

    def __call__(self) -> Tensor:
        """Return the relevance, of the input's shape."""
        zennit = pytest.importorskip("zennit.attribution", reason="zennit is not installed")
        composites = pytest.importorskip("zennit.composites")
        start = F.one_hot(self._setting.target, self._setting.logits.shape[1]).float()
        with zennit.Gradient(self._model, composites.EpsilonPlusFlat()) as attributor:
            relevance: Tensor = attributor(self._setting.images, start)[1]
        return relevance

    def check(self, result: Tensor) -> None:
        """Assert what the flat rule means: channels share alike, and nothing is zero or inf."""
        assert result.shape == self._setting.images.shape
        assert torch.isfinite(result).all()
        assert (result.flatten(1).abs().sum(1) > 0).all()
        torch.testing.assert_close(result, result[:, :1].expand_as(result))


class OcclusionWindows(_Rival):
    """Captum's ``Occlusion`` with 5 x 5 windows side by side."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._side = -(-setting.images.shape[-1] // _WINDOWS)

    def __call__(self) -> Tensor:
        """Return maps of the input's shape."""
        window = (3, self._side, self._side)
        maps: Tensor = Occlusion(self._model).attribute(
            self._setting.images, window, strides=window, target=self._setting.target
        )
        return maps

    def check(self, result: Tensor) -> None:
        """Recompute one window, and count them all."""
        side = self._side
        corner = (slice(None), slice(None), slice(side, 2 * side), slice(2 * side, 3 * side))
        images = self._setting.images.clone()
        images[corner] = 0
        with torch.no_grad():
            logits = self._setting.model(images)
        drop = self._setting.output - logits.gather(1, self._setting.target[:, None]).squeeze(1)
        expected = drop[:, None, None, None].expand_as(result[corner])
        torch.testing.assert_close(result[corner], expected, atol=1e-4, rtol=1e-3)
        assert len(result[0].unique()) == _WINDOWS**2


class IntegratedGradients50(_Rival):
    """Captum's ``IntegratedGradients`` with its 50 steps.

    Args:
        setting: What to explain.
        internal_batch: Images of a step that run together, where memory is the question.
    """

    def __init__(self, setting: Setting, internal_batch: int | None = None) -> None:
        super().__init__(setting)
        self._internal_batch = internal_batch

    def __call__(self) -> Tensor:
        """Return maps of the input's shape."""
        maps: Tensor = IntegratedGradients(self._model).attribute(
            self._setting.images,
            target=self._setting.target,
            internal_batch_size=self._internal_batch,
        )
        return maps

    def check(self, result: Tensor) -> None:
        """Assert completeness, exact in 50 steps here: no bias bends the path from black."""
        with torch.no_grad():
            black = self._setting.model(torch.zeros_like(self._setting.images))
        gain = self._setting.output - black.gather(1, self._setting.target[:, None]).squeeze(1)
        total = result.flatten(1).sum(1).float()
        torch.testing.assert_close(total, gain, atol=1e-3, rtol=1e-3)


class Tcav(_Rival):
    """Captum's ``TCAV``: one pair of concepts of 20 images, two layers.

    Args:
        setting: What to explain.
        is_warm: Concept vectors are trained before, not in every call.
    """

    def __init__(self, setting: Setting, is_warm: bool) -> None:
        super().__init__(setting)
        generator = torch.Generator().manual_seed(3)
        shape = (_CONCEPT_IMAGES, *setting.images.shape[1:])
        self._concepts = [
            Concept(i, f"concept{i}", list((torch.rand(shape, generator=generator) + i).split(10)))
            for i in range(2)
        ]
        self._folder = tempfile.TemporaryDirectory()
        self._tcav = self._trained(self._folder.name) if is_warm else None

    def _trained(self, folder: str) -> TCAV:
        return TCAV(self._model, _TCAV_LAYERS, model_id="benchmark", save_path=folder)

    def __call__(self) -> object:
        """Return the scores of the pair at each layer."""
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            tcav = self._tcav or self._trained(folder)
            return tcav.interpret(self._setting.images, [self._concepts], self._setting.target)

    def check(self, result: dict[str, dict[str, dict[str, Tensor]]]) -> None:
        """Assert that of two opposite concept vectors each image's gradient takes one side."""
        (scores,) = result.values()
        assert set(scores) == set(_TCAV_LAYERS)
        for score in scores.values():
            assert float(score["sign_count"].sum()) == pytest.approx(1)
            assert torch.isfinite(score["magnitude"]).all()


def _to_unit(maps: Tensor) -> Tensor:
    """Bring each map to [0, 1]."""
    shifted = maps - maps.amin((-2, -1), keepdim=True)
    return shifted / (shifted.amax((-2, -1), keepdim=True) + 1e-8)
