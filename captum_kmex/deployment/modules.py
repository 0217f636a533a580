"""Model and explanation as one plain module, for ``torch.export`` and ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn

from captum_kmex.composite.resizing import resize_keeping_mean
from captum_kmex.deployment.parts import ModelReader, PixelAssignment, Vote
from captum_kmex.explaining.segments import segment_means

__all__ = ["ExplainedModel", "MarginModel", "SegmentedModel"]

_Module = TypeVar("_Module", bound=nn.Module)


class ExplainedModel(nn.Module):
    """A model that answers with the map of its own head: no options, no state, no gradients.

    Args:
        reader: The model.
        evidence: The head, or what makes a map of the reader's in its place.
    """

    def __init__(self, reader: ModelReader, evidence: nn.Module) -> None:
        super().__init__()
        self.reader, self.evidence = reader, evidence
        self.eval()

    def train(self: _Module, mode: bool = True) -> _Module:  # noqa: ARG002
        """Stay in evaluation mode."""
        return super().train(False)

    @property
    def output_names(self) -> list[str]:
        """Names of what ``forward`` returns, in its order."""
        return ["logits", "target", "attribution", "bias"]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return logits and explanation of preprocessed images (N, C, H, W).

        Returns:
            ``logits`` (N, J), the explained class ``target`` (N,), ``attribution``
            (N, 1, h, w), whose sum is the target's logit less ``bias`` (N,).
        """
        logits, _, tap = self.reader(images)
        target, density, bias = self.evidence(logits, tap)
        return {
            "logits": logits,
            "target": target,
            "attribution": _summed(density),
            "bias": bias,
        }


class SegmentedModel(ExplainedModel):
    """A model that answers with its segments too, and with the class of their prototypes.

    Args:
        reader: The model.
        evidence: The head.
        assignments: One for each layer of the reader: the prototypes of the depth it begins.
        vote: How the prototypes of the first layer's depth classify.
        average_top: Average within the segments of the deepest layer too.
    """

    def __init__(
        self,
        reader: ModelReader,
        evidence: nn.Module,
        assignments: Sequence[PixelAssignment],
        vote: Vote,
        average_top: bool,
    ) -> None:
        super().__init__(reader, evidence)
        self.assignments, self.vote = nn.ModuleList(assignments), vote
        self.average_top = average_top

    @property
    def output_names(self) -> list[str]:
        """Names of what ``forward`` returns, in its order."""
        return [*super().output_names, "segments", "class_scores", "prediction"]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return logits, explanation and the prototypes' verdict of images (N, C, H, W).

        Returns:
            What ``ExplainedModel`` returns, and ``segments`` (N, h, w), each pixel's prototype
            by its index in the codebook, ``class_scores`` (N, C) and ``prediction`` (N,).
        """
        logits, blocks, tap = self.reader(images)
        target, density, bias = self.evidence(logits, tap)
        top = len(blocks) - 1
        for depth in range(top, -1, -1):
            density = resize_keeping_mean(density, (*blocks[depth].shape[2:],))
            is_averaged = depth < top or self.average_top
            if is_averaged or depth == 0:
                scores, squares = self.assignments[depth](blocks[depth:])
                segments = scores.argmax(1)
            if is_averaged:
                density = segment_means(density, segments, scores.shape[1])
        found, prediction = self.vote(scores, squares, segments)
        return {
            "logits": logits,
            "target": target,
            "attribution": _summed(density),
            "bias": bias,
            "segments": segments,
            "class_scores": found,
            "prediction": prediction,
        }


class MarginModel(ExplainedModel):
    """A model that answers with the margin by which its class's nearest centroid is nearer.

    Args:
        reader: The model, reading the map to pool.
        evidence: The centroids.
    """

    @property
    def output_names(self) -> list[str]:
        """Names of what ``forward`` returns, in its order."""
        return ["logits", "target", "attribution", "class_scores", "prediction"]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return logits, explanation and the prototypes' verdict of images (N, C, H, W).

        Returns:
            ``logits`` (N, J), the explained class ``target`` (N,), ``attribution``
            (N, 1, h, w), whose sum is the margin, ``class_scores`` (N, C), minus the distance
            to each class's nearest prototype, and ``prediction`` (N,).
        """
        logits, _, tap = self.reader(images)
        target, density, distances = self.evidence(logits, tap)
        return {
            "logits": logits,
            "target": target,
            "attribution": _summed(density),
            "class_scores": -distances,
            "prediction": distances.argmin(1),
        }


def _summed(density: Tensor) -> Tensor:
    """Return a density (N, 1, h, w), whose mean counts, as a map whose sum is that mean."""
    return density / (density.shape[2] * density.shape[3])
