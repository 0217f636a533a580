"""Concepts that belong to a class: what such methods share."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.quality.method import ConceptMaps, Method

__all__ = ["ClassConcepts"]


class ClassConcepts(Method):
    """K concepts a class; concept k of class j has the number j * K + k in all images."""

    family = "concepts"
    seeded = True
    shares_concepts = True

    def scores(self, inputs: Tensor) -> Tensor:
        """Return the score of every concept at every position, float tensor (N, J, K, h, w)."""
        raise NotImplementedError

    def worth(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return what the target's concepts are worth (N, K), from their scores (N, K, h, w)."""
        raise NotImplementedError

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the concept of the target's class that scores most at each position."""
        scores = self.own_scores(inputs, targets)
        return scores.argmax(1) + (targets * scores.shape[1])[:, None, None]

    def concepts(self, inputs: Tensor, targets: Tensor) -> ConceptMaps:
        """Return all classes' scores; those of other classes are worth nothing."""
        scores = self.scores(inputs)
        importance = scores.new_zeros(scores.shape[:3])
        importance[torch.arange(len(inputs)), targets] = self.worth(_own(scores, targets), targets)
        return ConceptMaps(scores.flatten(1, 2).clamp_min(0), importance.flatten(1))

    def own_scores(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the scores of the targets' concepts (N, K, h, w)."""
        return _own(self.scores(inputs), targets)


def _own(scores: Tensor, targets: Tensor) -> Tensor:
    return scores[torch.arange(len(targets)), targets]
