"""What a method of the attribution tables must offer, and ours."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor

from benchmarks.layer_outputs import layer_outputs
from benchmarks.speed.naive import naive_tail
from benchmarks.speed.setting import Setting, at_defaults, fitted, unfitted
from captum_kmex import Explanation, LayerKMeansAttribution

__all__ = [
    "BareForward",
    "Explained",
    "Method",
    "NaivePrototypes",
    "Ours",
    "Predicted",
    "Segmented",
]


class Method(Protocol):
    """A way to explain the images of a setting."""

    def __call__(self) -> object:
        """Explain the images."""

    def check(self, result: Any) -> None:
        """Assert something that only a right result fulfils."""


class BareForward:
    """The prediction alone, to be compared with itself."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def __call__(self) -> Tensor:
        """Return the logits."""
        return self._setting.forward()

    def check(self, result: Any) -> None:
        """Compare with the model called under ``no_grad``."""
        with torch.no_grad():
            expected = self._setting.model(self._setting.images)
        torch.testing.assert_close(result, expected)


class Ours:
    """``LayerKMeansAttribution``, with K prototypes or none, on a prepared copy or not.

    Args:
        setting: What to explain.
        n_prototypes: Prototypes of the bank; 0 clusters each image by itself in five clusters,
            ``None`` does so at the defaults.
        is_prepared: Explain on the copy of the model that ``prepare`` makes.
    """

    def __init__(
        self, setting: Setting, n_prototypes: int | None, is_prepared: bool = False
    ) -> None:
        self._setting = setting
        self._plain = self._attribution(n_prototypes)
        self._attr = self._attribution(n_prototypes) if is_prepared else self._plain
        if is_prepared:
            self._attr.prepare()

    def _attribution(self, n_prototypes: int | None) -> LayerKMeansAttribution:
        if n_prototypes is None:
            return at_defaults(self._setting)
        return fitted(self._setting, n_prototypes) if n_prototypes else unfitted(self._setting)

    def __call__(self) -> Tensor:
        """Return the maps (N, 1, h, w)."""
        return cast("Tensor", self._attr.attribute(self._setting.images, self._setting.target))

    def check(self, result: Any) -> None:
        """Assert that map and bias add up to the model's logit, and labels are the eager ones."""
        setting = self._setting
        total = result.flatten(1).sum(1) + setting.bias
        torch.testing.assert_close(total, setting.output, atol=1e-4, rtol=1e-4)
        if self._attr is not self._plain:
            same = self._attr.segment(setting.images) == self._plain.segment(setting.images)
            assert same.float().mean() >= 0.99


class Explained(Ours):
    """``explain``: the map, segments, the ledger, and class scores if there is a bank."""

    def __call__(self) -> Explanation:  # type: ignore[override]
        """Return the explanation."""
        return self._attr.explain(self._setting.images, self._setting.target)

    def check(self, result: Explanation) -> None:
        """Assert that map and ledger add up to the model's logit."""
        super().check(result.attribution)
        evidence = torch.tensor([sum(row.evidence for row in rows) for rows in result.ledger])
        total = evidence + self._setting.bias
        torch.testing.assert_close(total, self._setting.output, atol=1e-4, rtol=1e-4)


class Predicted(Ours):
    """``predict``: the class that the prototypes vote for."""

    def __call__(self) -> Tensor:
        """Return the classes (N,)."""
        return self._attr.predict(self._setting.images)

    def check(self, result: Tensor) -> None:
        """Compare with what ``explain`` says."""
        expected = self._attr.explain(self._setting.images).prediction
        assert expected is not None
        assert torch.equal(result, expected)


class Segmented(Ours):
    """``segment``: the labels alone."""

    def __call__(self) -> Tensor:
        """Return the segment of each pixel (N, h, w)."""
        return self._attr.segment(self._setting.images)

    def check(self, result: Tensor) -> None:
        """Compare with what ``explain`` says."""
        expected = self._attr.explain(self._setting.images).segments
        assert expected is not None
        assert torch.equal(result, expected)


class NaivePrototypes:
    """The same map as ``Ours``, its tail computed the naive way.

    Args:
        setting: What to explain.
        n_prototypes: Prototypes of the bank.
    """

    def __init__(self, setting: Setting, n_prototypes: int) -> None:
        self._setting = setting
        bank = fitted(setting, n_prototypes).bank_
        self._books = [book.centroids for book in bank.codebooks]

    def __call__(self) -> Tensor:
        """Return the maps (N, 1, h, w)."""
        setting = self._setting
        blocks = layer_outputs(setting.model, setting.layers, setting.images)
        return naive_tail(blocks, setting.column, self._books)[0]

    def check(self, result: Any) -> None:
        """Assert that map and bias add up to the logit."""
        total = result.flatten(1).sum(1) + self._setting.bias
        torch.testing.assert_close(total, self._setting.output, atol=1e-4, rtol=1e-4)
