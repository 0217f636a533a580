"""ICE, invertible concept-based explanations (Zhang et al., 2021), from the paper."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.methods.systems.nmf import factorise, map_codes
from benchmarks.methods.systems.tap import Tap
from benchmarks.methods.systems.training import draw_by_class
from benchmarks.quality.method import ConceptMaps, Method
from benchmarks.quality.task import Task

__all__ = ["METHODS"]

_PER_CLASS = 40  # 20,000 positions of a 7x7 map in ten classes
_MAX_ROWS = 20_000


class Ice(Method):
    """One NMF of all classes' positions at the tap; concepts are shared by the classes.

    The tap's vectors are h_p ~ sum_k u_pk v_k. The importance of concept k for class j, the
    derivative of the logit along v_k, is <v_k, c_j> under a pooled linear head; times the mean
    code it is what the concept adds to the logit of an image, which is what ``concepts`` gives.
    """

    family = "concepts"
    source = (
        "Zhang et al. (2021), written from the paper; NMF of scikit-learn on 40 images a class "
        "(20,000 positions at most)"
    )
    seeded = True
    shares_concepts = True

    def __init__(self, n_concepts: int) -> None:
        self._n_concepts = n_concepts

    def fit(self, task: Task, seed: int) -> None:
        images = torch.cat(draw_by_class(task, _PER_CLASS, seed))
        self.tap = Tap(task.model, images)
        rows = self.tap.rows(images)
        kept = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:_MAX_ROWS]
        self.components = factorise(rows[kept], self._n_concepts, seed)
        self.importance = self.tap.columns.cpu() @ self.components.T  # (J, K)

    def codes(self, inputs: Tensor) -> Tensor:
        """Return the codes u (N, K, h, w)."""
        return map_codes(self.tap.features(inputs), self.components)

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the logits (N, J) of the features that the codes give back."""
        return self.codes(inputs).mean((2, 3)) @ self.importance.T + self.tap.bias.cpu()

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.einsum("nkhw,nk->nhw", self.codes(inputs), self.importance[targets])

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self.codes(inputs).argmax(1)

    def concepts(self, inputs: Tensor, targets: Tensor) -> ConceptMaps:
        codes = self.codes(inputs)
        return ConceptMaps(codes, codes.mean((2, 3)) * self.importance[targets])

    def predict(self, inputs: Tensor) -> Tensor:
        return self.logits(inputs).argmax(1)


METHODS: dict[str, Callable[[], Method]] = {"ICE (25 concepts)": partial(Ice, 25)}
