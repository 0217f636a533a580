"""Model and explanation as one plain module, for ``torch.export`` and ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_kmex.arguments.targets import resolve_target
from captum_kmex.classes import class_logits
from captum_kmex.composite.by_class import ClassRuns, best_by_class
from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.exceptions import TargetError
from captum_kmex.explaining.evidence import carried_down, explained_bias, head_evidence
from captum_kmex.explaining.segmentation import Segmentation
from captum_kmex.explaining.segments import class_scores, predicted_class
from captum_kmex.explaining.votes import mean_log_nearness
from captum_kmex.model.head import LinearHead
from captum_kmex.model.reader import ModelReader

__all__ = [
    "CentroidMargin",
    "DistanceVote",
    "ExplainedModel",
    "HeadEvidence",
    "MarginModel",
    "SegmentedModel",
    "ShareVote",
    "fixed_target",
]

_VERDICT = ["class_scores", "prediction"]
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
        return dict(zip(self.output_names, (logits, target, _summed(density), bias), strict=True))


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

    output_names: ClassVar[list[str]] = [*ExplainedModel.output_names, "segments", *_VERDICT]

    def __init__(
        self,
        reader: ModelReader,
        evidence: nn.Module,
        prototypes: Sequence[Tensor],
        weights: tuple[float, ...],
        vote: nn.Module,
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
            nearest, count = scores[-1].argmax(1), own.shape[0]
            everyone = torch.arange(count, device=own.device).expand(images.shape[0], -1)
            return Segmentation(nearest, count, everyone, nearest, scores[-1].amax(1), part)

        *_, last = carried_down([density], stack, 0, self.average_top, segment)
        found = last[2] or segment(0)
        verdict = self.vote(scores[-1], found)
        answers = (logits, target, _summed(last[1][0]), bias, found.labels, *verdict)
        return dict(zip(self.output_names, answers, strict=True))


class MarginModel(ExplainedModel):
    """A model that answers with the margin by which its class's nearest centroid is nearer.

    Args:
        reader: The model, reading the map to pool.
        evidence: The centroids.
    """

    output_names: ClassVar[list[str]] = ["logits", "target", "attribution", *_VERDICT]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return logits, explanation and the prototypes' verdict of images (N, C, H, W).

        Returns:
            ``logits`` (N, J), the explained class ``target`` (N,), ``attribution``
            (N, 1, h, w), whose sum is the margin, ``class_scores`` (N, C), minus the distance
            to each class's nearest prototype, and ``prediction`` (N,).
        """
        logits, _, tap = self.reader(images)
        target, density, scores = self.evidence(logits, tap)
        answers = (logits, target, _summed(density), scores, scores.argmax(1))
        return dict(zip(self.output_names, answers, strict=True))


def _summed(density: Tensor) -> Tensor:
    """Return a density (N, 1, h, w), whose mean counts, as a map whose sum is that mean."""
    return density / (density.shape[2] * density.shape[3])


def fixed_target(target: int | None, logits: Tensor) -> int | None:
    """Return the one class that a module explains, or ``None`` for each image's argmax.

    Args:
        target: As the user gave it.
        logits: Float tensor (N, J) of some images.

    Raises:
        TargetError: Malformed target, or several classes.
    """
    classes = resolve_target(target, logits).unique().tolist()
    if target is None:
        return None
    if len(classes) > 1:
        raise TargetError(
            f"a module explains one class of all images, or each one's argmax; got {classes}. "
            "Make a module for each class"
        )
    return int(classes[0])


def _explained_class(target: int | None, logits: Tensor) -> Tensor:
    likeliest = logits.argmax(1)
    return likeliest if target is None else torch.full_like(likeliest, target)


class HeadEvidence(nn.Module):
    """A linear head with its columns as buffers.

    Args:
        head: The head, in the dtype of the map that it reads.
        target: The class to explain, one for all images; each one's argmax if ``None``.
    """

    columns: Tensor
    offset: Tensor

    def __init__(self, head: LinearHead, target: int | None) -> None:
        super().__init__()
        self.register_buffer("columns", head.columns.clone())
        self.register_buffer("offset", head.bias.clone())
        self.rectified, self.target = head.rectified, target

    def forward(self, logits: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the explained class (N,), its density (N, 1, h, w) and left-out bias (N,)."""
        head = LinearHead(self.columns, self.offset, self.rectified)
        target = _explained_class(self.target, logits)
        density = head_evidence(head, features, target, None, "logit")
        return target, density, explained_bias(head, target, None)


class CentroidMargin(nn.Module):
    """Class-wise centroids of pooled embeddings, and the margin that each position adds.

    Args:
        centroids: Float tensor (K, D), of two classes or more.
        classes: The class of each, integer tensor (K,).
        n_classes: Number of classes C.
        target: The class to explain; each image's argmax if ``None``.
    """

    centroids: Tensor
    classes: Tensor

    def __init__(
        self, centroids: Tensor, classes: Tensor, n_classes: int, target: int | None
    ) -> None:
        super().__init__()
        self.register_buffer("centroids", centroids.clone())
        self.register_buffer("classes", classes.clone())
        self.n_classes, self.target = n_classes, target

    def forward(self, logits: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the explained class (N,), its density (N, 1, h, w) and class scores (N, C).

        ``|h-b|^2 - |h-a|^2 = 2 <h - (a+b)/2, a - b>`` is a mean over positions. The density is
        NaN for a class without prototypes, and its score minus infinity.
        """
        differences = features.mean((2, 3)).unsqueeze(1) - self.centroids
        distances = differences.square().sum(2)
        best, index = best_by_class(-distances, self.classes, self.n_classes)
        target = _explained_class(self.target, class_logits(logits)).unsqueeze(1)
        rival = best.scatter(1, target, -torch.inf).argmax(1, keepdim=True)
        a, b = (self.centroids[index.gather(1, c)][:, 0, :, None, None] for c in (target, rival))
        density = 2 * ((features - (a + b) / 2) * (a - b)).sum(1, keepdim=True)
        unknown = best.gather(1, target).isinf()[..., None, None]
        return target.squeeze(1), density.masked_fill(unknown, torch.nan), -(-best).sqrt()


class ShareVote(nn.Module):
    """The share of pixels that each class's prototypes win (eq. 10).

    Args:
        membership: Class of each prototype, as in ``class_scores``.
        n_classes: Number of classes C.
    """

    membership: Tensor

    def __init__(self, membership: Tensor, n_classes: int) -> None:
        super().__init__()
        shares = F.one_hot(membership, n_classes) if membership.ndim == 1 else membership
        self.register_buffer("membership", shares.float())
        self.n_classes = n_classes

    def forward(self, scores: Tensor, segments: Segmentation) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return class scores (N, C) and predictions (N,) of the scores (N, K, H, W)."""
        book = (self.membership, self.n_classes)
        nearest, distances = segments.nearest, segments.distances
        return class_scores(nearest, *book), predicted_class(nearest, distances, *book)


class DistanceVote(nn.Module):
    """The mean log distance to each class's nearest prototypes.

    Args:
        classes: Class of each prototype, integer tensor (K,).
        n_classes: Number of classes C.
    """

    order: Tensor
    column: Tensor

    def __init__(self, classes: Tensor, n_classes: int) -> None:
        super().__init__()
        classes, order = classes.sort(stable=True)
        runs = ClassRuns.of(classes)
        (self.runs,) = runs.chunks(len(classes))
        self.runs.best(torch.zeros(1, len(classes)), 1)  # what it keeps is no part of a graph
        column = torch.full((n_classes,), len(runs.classes), device=classes.device)
        column[runs.classes] = torch.arange(len(runs.classes)).to(column)
        self.is_in_order = bool((order[1:] > order[:-1]).all())
        self.register_buffer("order", order)
        self.register_buffer("column", column)

    def forward(self, scores: Tensor, segments: Segmentation) -> tuple[Tensor, Tensor]:
        """Return class scores (N, C) and predictions (N,) of the scores (N, K, H, W)."""
        stack = segments.stack
        scores = scores if self.is_in_order else scores[:, self.order]
        size = math.fsum(weight**2 for weight in stack.weights)
        best = self.runs.best(scores.flatten(2), 1).unflatten(2, stack.grid)
        found = mean_log_nearness(best, stack.squared_norms.unsqueeze(1), size)
        # classes without prototypes have minus infinity
        found = F.pad(found, (0, 1), value=-torch.inf)[:, self.column]
        return found, found.argmax(1)
