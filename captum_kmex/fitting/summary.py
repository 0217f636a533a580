"""Figures of the images of a fit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from captum_kmex.bank.tensor_kinds import INTEGER, TensorKind
from captum_kmex.classes import class_count
from captum_kmex.data.batches import Batch
from captum_kmex.fitting.options import Observation
from captum_kmex.fitting.state import State, added, alike, greatest, least

__all__ = ["Summary"]

_NUMBER = TensorKind(torch.float64, ())
_MOST_LOGITS = 2**31 - 1


class Summary(State):
    """Figures of the images of a fit.

    Attributes:
        n_logits: Number of logits; 0 before the first batch.
        weights: Block weights, one a layer.
        n_images: Images.
        low: Least input value.
        high: Greatest input value.
        seen: Rows of each class at the first depth; known once the pass is over.
        kept: Rows of each class in the sample; as ``seen``.
    """

    n_logits: int
    weights: tuple[float, ...]
    n_images: int
    low: float
    high: float
    seen: tuple[int, ...]
    kept: tuple[int, ...]

    def __init__(self) -> None:
        super().__init__()
        self.declare("n_logits", 0, TensorKind(INTEGER, (), 1, _MOST_LOGITS), alike)
        self.declare("weights", (), TensorKind(torch.float64, ("/depths",)), alike)
        self.declare("n_images", 0, TensorKind(INTEGER, (), 1), added)
        self.declare("low", torch.inf, _NUMBER, least)
        self.declare("high", -torch.inf, _NUMBER, greatest)
        self.declare("seen", (), TensorKind(INTEGER, ("groups",), 0), alike)
        self.declare("kept", (), TensorKind(INTEGER, ("groups",), 0), alike)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return class_count(self.n_logits)

    def add(self, batch: Batch, seen: Observation) -> None:
        """Take in a batch and what the model made of it."""
        self.n_logits, self.weights = seen.logits.shape[1], seen.weights
        self.n_images += len(batch.indices)
        low, high = (float(x) for x in batch.inputs[0].aminmax())
        self.low, self.high = min(self.low, low), max(self.high, high)

    def check_values(self, saved: Mapping[str, Tensor], prefix: str = "") -> None:
        """Raise ``ValueError`` for figures of no images."""
        if saved["low"] > saved["high"] or not bool((saved["weights"] > 0).all()):
            raise ValueError(f"{prefix}low, high and weights are none of images")
