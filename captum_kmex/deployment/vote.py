"""The vote of exported modules: the rules of attributions on the scores of all prototypes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_kmex.bank.codebook import is_agnostic
from captum_kmex.composite.by_class import ClassRuns
from captum_kmex.composite.nearness import mean_log_nearness
from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.explaining.segmentation import Segmentation
from captum_kmex.explaining.votes import VOTES

__all__ = ["PrototypeVote"]


class PrototypeVote(nn.Module):
    """How the prototypes of a depth classify, by the rules that attributions use.

    Args:
        rule: A key of ``VOTES``.
        membership: Class of each prototype (K,), or shares of classes (K, C).
        n_classes: Number of classes C.
    """

    membership: Tensor
    order: Tensor
    column: Tensor

    def __init__(self, rule: str, membership: Tensor, n_classes: int) -> None:
        super().__init__()
        self.rule, self.n_classes = VOTES[rule], n_classes
        self.register_buffer("membership", membership.clone())
        if not is_agnostic(membership):
            self._arrange(membership)

    def forward(self, scores: Tensor, segments: Segmentation) -> dict[str, Tensor]:
        """Return class scores (N, C) and predictions (N,).

        Args:
            scores: Float tensor (N, K, H, W), those of all prototypes.
            segments: The segments that they make.
        """
        found, prediction = self.rule.count(_ScoredBallot(self, scores, segments))
        return {"class_scores": found, "prediction": prediction}

    def log_nearness(self, scores: Tensor, stack: StackedBlocks) -> Tensor:
        """Return minus the mean log distance to each class (N, C); minus infinity without any."""
        scores = scores if self.is_in_order else scores[:, self.order]
        best = self.runs.best(scores.flatten(2), 1).unflatten(2, stack.grid)
        found = mean_log_nearness(best, stack.squared_norms.unsqueeze(1), stack.full_square)
        return F.pad(found, (0, 1), value=-torch.inf)[:, self.column]

    def _arrange(self, classes: Tensor) -> None:
        """Keep where each class's prototypes stand."""
        classes, order = classes.sort(stable=True)
        runs = ClassRuns.of(classes)
        (self.runs,) = runs.chunks(len(classes))
        self.runs.best(torch.zeros(1, len(classes)), 1)  # what it keeps is no part of a graph
        column = torch.full((self.n_classes,), len(runs.classes), device=classes.device)
        column[runs.classes] = torch.arange(len(runs.classes)).to(column)
        self.is_in_order = bool((order[1:] > order[:-1]).all())
        self.register_buffer("order", order)
        self.register_buffer("column", column)


class _ScoredBallot:
    """The ballot of all prototypes' scores."""

    def __init__(self, vote: PrototypeVote, scores: Tensor, segments: Segmentation) -> None:
        self.membership, self.n_classes = vote.membership, vote.n_classes
        self.nearest, self._vote = segments.nearest, vote
        self._scores, self._segments = scores, segments

    @property
    def distances(self) -> Tensor:
        return self._segments.distances

    def log_nearness(self) -> Tensor:
        return self._vote.log_nearness(self._scores, self._segments.stack)
