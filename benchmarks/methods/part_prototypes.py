"""Post-hoc part-prototype network (Tan et al., 2024), from the paper."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from benchmarks.methods.systems.class_concepts import ClassConcepts
from benchmarks.methods.systems.nmf import factorise
from benchmarks.methods.systems.tap import Tap
from benchmarks.methods.systems.training import draw_by_class
from benchmarks.quality.method import Method, Prototypes
from benchmarks.quality.task import Task

__all__ = ["METHODS"]

_PER_CLASS = 100


class PartPrototypes(ClassConcepts):
    """A class's column of the head split into parts found by NMF of its images' positions.

    The parts of class j sum to c_j, so that predictions are the network's, and the map of the
    class, the sum of its parts' maps, is that of the column itself; segments and concepts are
    the method's own. Predictions equal the network's by construction.
    """

    family = "prototypes"
    source = (
        "Tan et al. (2024), written from the paper; NMF of scikit-learn on 100 images a class; "
        "the residual is shared as r_i = share_i r, shares >= 0 by Nelder-Mead"
    )

    def __init__(self, n_parts: int) -> None:
        self._n_parts = n_parts

    def fit(self, task: Task, seed: int) -> None:
        by_class = draw_by_class(task, _PER_CLASS, seed)
        self.tap = Tap(task.model, by_class[0])
        self.columns, self.bias = self.tap.columns.cpu(), self.tap.bias.cpu()
        parts = []
        for images, column in zip(by_class, self.columns, strict=True):
            rows = self.tap.rows(images)
            found = scaled_parts(factorise(rows, self._n_parts, seed), column)
            residual = column - found.sum(0)
            parts.append(found + residual_shares(found, residual, rows)[:, None] * residual)
        self.parts = torch.stack(parts)  # (J, K, D)

    def scores(self, inputs: Tensor) -> Tensor:
        return torch.einsum("ndhw,jkd->njkhw", self.tap.features(inputs), self.parts)

    def worth(self, scores: Tensor, targets: Tensor) -> Tensor:
        return scores.mean((2, 3))  # these sum to the target's logit minus its bias

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self.own_scores(inputs, targets).sum(1)

    def predict(self, inputs: Tensor) -> Tensor:
        return (self.scores(inputs).mean((3, 4)).sum(2) + self.bias).argmax(1)

    def prototypes(self) -> Prototypes:
        n_classes, n_parts, _ = self.parts.shape
        classes = torch.arange(n_classes).repeat_interleave(n_parts)
        return Prototypes(self.parts.flatten(0, 1), classes)


def scaled_parts(parts: Tensor, column: Tensor) -> Tensor:
    """Return the parts p_i (K, D) scaled by ``argmin ||c - sum_i alpha_i p_i||^2``."""
    # minimum norm, for a part may be empty
    scale: Tensor = torch.linalg.pinv(parts.double().T) @ column.double()
    return scale.to(parts.dtype)[:, None] * parts


def residual_shares(parts: Tensor, residual: Tensor, rows: Tensor) -> Tensor:
    """Return shares (K,) of the residual, not negative, of sum one.

    They maximise the mean correlation, over the class's positions, of each part's map after it
    took its share with its map before: the parts stay what they were found to be. Nelder-Mead
    starts from equal shares; a share is the softmax of a free variable.

    Args:
        parts: Scaled parts (K, D).
        residual: What is missing from their sum, (D,).
        rows: Positions of the class's images (M, D).
    """
    scores = rows.double() @ torch.cat([parts, residual[None]]).double().T
    scores = scores - scores.mean(0)
    gram = (scores.T @ scores).numpy()
    count = len(parts)
    own, cross, rest = np.diag(gram)[:count], gram[:count, count], gram[count, count]

    def distance(free: NDArray[np.float64]) -> float:
        share = _simplex(free)
        length = own + 2 * share * cross + share**2 * rest
        correlation = (own + share * cross) / np.sqrt(np.maximum(own * length, 1e-30))
        return -float(correlation.mean())

    options = {"maxiter": 200 * count, "xatol": 1e-4, "fatol": 1e-8}
    found = minimize(distance, np.zeros(count), method="Nelder-Mead", options=options)
    return torch.from_numpy(_simplex(found.x)).to(parts.dtype)


def _simplex(free: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(free - free.max())
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


METHODS: dict[str, Callable[[], Method]] = {
    f"Part prototypes (K={count})": partial(PartPrototypes, count) for count in (5, 10)
}
