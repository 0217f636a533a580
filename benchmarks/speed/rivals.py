"""The usual alternatives but class activation maps, as documented, at their own defaults."""

from __future__ import annotations

import tempfile
import warnings

import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, KernelShap, Occlusion, Saliency
from captum.concept import TCAV, Concept
from torch import Tensor

from benchmarks.speed.rival import Rival
from benchmarks.speed.setting import Setting

__all__ = [
    "IntegratedGradients50",
    "KernelShap25",
    "LayerwiseRelevance",
    "OcclusionWindows",
    "PlainSaliency",
    "Tcav",
]

_WINDOWS = 5  # along each side
_SQUARES = 7  # likewise
_CONCEPT_IMAGES = 20
_TCAV_LAYERS = ["layer3", "layer4"]


class PlainSaliency(Rival):
    """Captum's ``Saliency``."""

    def __call__(self) -> Tensor:
        """Return maps of the input's shape."""
        maps: Tensor = Saliency(self.model).attribute(self.setting.images, self.setting.target)
        return maps

    def check(self, result: Tensor) -> None:
        """Compare with the gradient's absolute value."""
        images = self.setting.images.clone().requires_grad_()
        logits = self.setting.model(images)
        total = logits.gather(1, self.setting.target[:, None]).sum()
        expected = torch.autograd.grad(total, images)[0].abs()
        torch.testing.assert_close(result.detach(), expected)


class LayerwiseRelevance(Rival):
    """zennit's ``EpsilonPlusFlat``: LRP with three rules."""

    def __call__(self) -> Tensor:
        """Return the relevance, of the input's shape."""
        zennit = pytest.importorskip("zennit.attribution", reason="zennit is not installed")
        composites = pytest.importorskip("zennit.composites")
        start = F.one_hot(self.setting.target, self.setting.logits.shape[1]).float()
        with zennit.Gradient(self.model, composites.EpsilonPlusFlat()) as attributor:
            relevance: Tensor = attributor(self.setting.images, start)[1]
        return relevance

    def check(self, result: Tensor) -> None:
        """Assert what the flat rule means: channels share alike, and nothing is zero or inf."""
        assert result.shape == self.setting.images.shape
        assert torch.isfinite(result).all()
        assert (result.flatten(1).abs().sum(1) > 0).all()
        torch.testing.assert_close(result, result[:, :1].expand_as(result))


class OcclusionWindows(Rival):
    """Captum's ``Occlusion`` with 5 x 5 windows side by side."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._side = -(-setting.images.shape[-1] // _WINDOWS)

    def __call__(self) -> Tensor:
        """Return maps of the input's shape."""
        window = (3, self._side, self._side)
        maps: Tensor = Occlusion(self.model).attribute(
            self.setting.images, window, strides=window, target=self.setting.target
        )
        return maps

    def check(self, result: Tensor) -> None:
        """Recompute one window, and count them all."""
        side = self._side
        corner = (slice(None), slice(None), slice(side, 2 * side), slice(2 * side, 3 * side))
        images = self.setting.images.clone()
        images[corner] = 0
        with torch.no_grad():
            logits = self.setting.model(images)
        drop = self.setting.output - logits.gather(1, self.setting.target[:, None]).squeeze(1)
        expected = drop[:, None, None, None].expand_as(result[corner])
        torch.testing.assert_close(result[corner], expected, atol=1e-4, rtol=1e-3)
        assert len(result[0].unique()) == _WINDOWS**2


class IntegratedGradients50(Rival):
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
        maps: Tensor = IntegratedGradients(self.model).attribute(
            self.setting.images,
            target=self.setting.target,
            internal_batch_size=self._internal_batch,
        )
        return maps

    def check(self, result: Tensor) -> None:
        """Assert completeness, exact in 50 steps here: no bias bends the path from black."""
        with torch.no_grad():
            black = self.setting.model(torch.zeros_like(self.setting.images))
        gain = self.setting.output - black.gather(1, self.setting.target[:, None]).squeeze(1)
        total = result.flatten(1).sum(1).float()
        torch.testing.assert_close(total, gain, atol=1e-3, rtol=1e-3)


class KernelShap25(Rival):
    """Captum's ``KernelShap`` on 7 x 7 squares, with its 25 samples, image by image as it asks."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        height, width = setting.images.shape[2:]
        rows = torch.arange(height) * _SQUARES // height
        columns = torch.arange(width) * _SQUARES // width
        self._squares = rows[:, None] * _SQUARES + columns

    def __call__(self) -> Tensor:
        """Return maps of the input's shape."""
        pairs = zip(self.setting.images.split(1), self.setting.target, strict=True)
        shap = KernelShap(self.model)
        return torch.cat(
            [shap.attribute(x, target=int(c), feature_mask=self._squares) for x, c in pairs]
        )

    def check(self, result: Tensor) -> None:
        """Assert that each square has one finite value, and not all have the same."""
        assert torch.isfinite(result).all()
        squares = self._squares.flatten()
        for x in result.flatten(2).flatten(0, 1):
            sums = torch.zeros(_SQUARES**2).index_add_(0, squares, x)
            means = sums / torch.bincount(squares)
            torch.testing.assert_close(means[squares], x, atol=1e-5, rtol=1e-4)
            assert means.std() > 0


class Tcav(Rival):
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
        return TCAV(self.model, _TCAV_LAYERS, model_id="benchmark", save_path=folder)

    def __call__(self) -> object:
        """Return the scores of the pair at each layer."""
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            tcav = self._tcav or self._trained(folder)
            return tcav.interpret(self.setting.images, [self._concepts], self.setting.target)

    def check(self, result: dict[str, dict[str, dict[str, Tensor]]]) -> None:
        """Assert that of two opposite concept vectors each image's gradient takes one side."""
        (scores,) = result.values()
        assert set(scores) == set(_TCAV_LAYERS)
        for score in scores.values():
            assert float(score["sign_count"].sum()) == pytest.approx(1)
            assert torch.isfinite(score["magnitude"]).all()
