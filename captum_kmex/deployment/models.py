"""Modules that give logits and explanation: what ``as_module`` returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypeVar

from torch import Tensor, nn

from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.deployment.vote import PrototypeVote
from captum_kmex.explaining.evidence import carried_down, summed
from captum_kmex.explaining.segmentation import Segmentation
from captum_kmex.model.frozen_reader import ModelReader

__all__ = ["ExplainedModel", "MarginModel", "SegmentedModel"]

_Module = TypeVar("_Module", bound=nn.Module)


class ExplainedModel(nn.Module):
    """A model that answers with the map of its own head: no options, no state, no gradients.

    Args:
        reader: The model.
        evidence: The head, or what makes a map of the reader's in its place.
    """

    #: Names of what ``forward`` returns, in its order.
    output_names: ClassVar[list[str]] = ["logits", "target", "attribution", "bias"]

    def __init__(self, reader: ModelReader, evidence: nn.Module) -> None:
        super().__init__()
        self.reader, self.evidence = reader, evidence
        self.eval()

    def train(self: _Module, mode: bool = True) -> _Module:  # noqa: ARG002
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return logits and explanation of preprocessed images (N, C, H, W).

        Returns:
            ``logits`` (N, J), the explained class ``target`` (N,), ``attribution``
            (N, 1, h, w), whose sum is the target's logit less ``bias`` (N,).
        """
        logits, _, tap = self.reader(images)
        target, density, bias = self.evidence(logits, tap)
        return dict(zip(self.output_names, (logits, target, summed(density), bias), strict=True))


class SegmentedModel(ExplainedModel):
    """A model that answers with its segments too, and with the class of their prototypes.

    Args:
        reader: The model.
        evidence: The head.
        prototypes: Those of each depth, float tensors (K, D), the whole stack of the reader's
            layers first.
        weights: Weight of each block.
        vote: How the prototypes of the first depth classify.
        average_top: Average within the segments of the deepest layer too.
    """

    output_names: ClassVar[list[str]] = [
        *ExplainedModel.output_names,
        "segments",
        "class_scores",
        "prediction",
    ]

    def __init__(
        self,
        reader: ModelReader,
        evidence: nn.Module,
        prototypes: Sequence[Tensor],
        weights: tuple[float, ...],
        vote: PrototypeVote,
        average_top: bool,
    ) -> None:
        super().__init__(reader, evidence)
        self.prototypes = nn.ParameterList(p.clone() for p in prototypes).requires_grad_(False)
        self.weights, self.vote, self.average_top = weights, vote, average_top

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return logits, explanation and the prototypes' verdict of images (N, C, H, W).

        Returns:
            What ``ExplainedModel`` returns, and ``segments`` (N, h, w), each pixel's prototype
            by its index in the codebook, ``class_scores`` (N, C) and ``prediction`` (N,).
        """
        logits, blocks, tap = self.reader(images)
        target, density, bias = self.evidence(logits, tap)
        stack = StackedBlocks(blocks, self.weights)
        scores: list[Tensor] = []

        def segment(depth: int) -> Segmentation:
            part, own = stack.suffix(depth), self.prototypes[depth]
            scores.append(part.scores(own))
            best, nearest = scores[-1].amax(1), scores[-1].argmax(1)
            return Segmentation.of_nearest(part, best, nearest, own.shape[0])

        *_, last = carried_down([density], stack, 0, self.average_top, segment)
        found = last.averaged or segment(0)
        return {
            "logits": logits,
            "target": target,
            "attribution": summed(last.densities[0]),
            "bias": bias,
            "segments": found.labels,
            **self.vote(scores[-1], found),
        }


class MarginModel(ExplainedModel):
    """A model that answers with the margin by which its class's nearest centroid is nearer.

    Args:
        reader: The model, reading the map to pool.
        evidence: The centroids.
    """

    output_names: ClassVar[list[str]] = [
        *["logits", "target", "attribution"],
        *["class_scores", "prediction"],
    ]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return logits, explanation and the prototypes' verdict of images (N, C, H, W).

        Returns:
            ``logits`` (N, J), the explained class ``target`` (N,), ``attribution``
            (N, 1, h, w), whose sum is the margin, ``class_scores`` (N, C), minus the distance
            to each class's nearest prototype, and ``prediction`` (N,).
        """
        logits, _, tap = self.reader(images)
        target, density, scores = self.evidence(logits, tap)
        return {
            "logits": logits,
            "target": target,
            "attribution": summed(density),
            "class_scores": scores,
            "prediction": scores.argmax(1),
        }
