"""What the report shows of a batch: every depth's segments, and their evidence for each class.

Segments do not depend on the explained class and maps are linear in the head's columns, so one
forward pass gives all depths, all shown classes and, as differences, all contrasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from captum_kmex.attributions.layer_kmeans import LayerKMeansAttribution
from captum_kmex.attributions.one_bank import one_bank_a_call
from captum_kmex.classes import class_count, class_of_logit, predicted_classes
from captum_kmex.explaining.evidence import Question, finish_map
from captum_kmex.explaining.explainer import Explainer
from captum_kmex.explaining.segments import segment_sums
from captum_kmex.model.reading import plain_arithmetic

__all__ = ["BatchEvidence", "DepthEvidence", "Fewest", "explain_batch", "shown_logits"]

Fewest = tuple[tuple[tuple[int, ...] | None, ...], ...]  # segments, of each image and class

_TOP = 3  # classes shown of an image, and the true one


@dataclass(frozen=True)
class DepthEvidence:
    """Segments of one depth and what each adds to each shown logit; all on the CPU.

    Attributes:
        segments: Prototype, or the image's own cluster, of each cell (N, h, w).
        evidence: Float64 tensor (N, T, K), logit units.
        maps: Float tensor (N, T, h, w) where it is not constant on segments: the deepest
            layer's, as the head gives it.
        vote: Class (N,) that the prototypes predict, if fitted.
        errors: Standard deviations of the evidence (N, T, K), if it was measured.
        enough: The fewest segments that keep each class of each image, likewise.
        needed: The fewest without which it is another, likewise.
    """

    segments: Tensor
    evidence: Tensor
    maps: Tensor | None
    vote: Tensor | None
    errors: Tensor | None = None
    enough: Fewest = ()
    needed: Fewest = ()


@dataclass(frozen=True)
class BatchEvidence:
    """One batch at every depth; all on the CPU.

    Attributes:
        logits: Float tensor (N, J).
        prediction: The model's class (N,).
        targets: Shown classes (N, T): the highest logits, the predicted class first, then the
            true class; one that occurs twice is the same. Of a single logit, class 1.
        output: Logits of the targets (N, T).
        bias: What the maps of the targets leave out (N, T).
        not_linear: What a linearisation leaves over of the targets (N, T), if there is one.
        depths: All layers stacked first, the deepest alone last; none where there are maps only.
        methods: Maps of other attributions by name, (N, T, h, w) each.
    """

    logits: Tensor
    prediction: Tensor
    targets: Tensor
    output: Tensor
    bias: Tensor
    not_linear: Tensor | None
    depths: tuple[DepthEvidence, ...]
    methods: Mapping[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
@one_bank_a_call
def explain_batch(
    attribution: LayerKMeansAttribution, inputs: Tensor, labels: Tensor
) -> BatchEvidence:
    """Explain the likeliest classes and the true one at every depth, in one forward pass.

    Every number is the one that ``attribution.explain`` gives for that target and depth.

    Args:
        attribution: Fitted or not.
        inputs: Float tensor (N, C, H, W), on the model's device.
        labels: Integer tensor (N,), -1 where unknown; of a single logit also 0. and 1.

    Raises:
        NotFittedError: The model has no linear head and there is no surrogate of it yet.
        ValueError: A label out of range or in floating point, or inputs that are no
            floating-point images.
    """
    at_input = attribution.is_fitted and attribution.bank_.at_input
    explainer = attribution.read(inputs, None, at_input)
    logits = explainer.logits
    targets = shown_logits(logits, labels.to(logits.device))
    questions = [Question(target) for target in targets.T]
    with plain_arithmetic(inputs):
        depths = tuple(_carried_down(explainer, questions, inputs))[::-1]
    output = [question.output(logits) for question in questions]
    bias = [question.bias(explainer.head) for question in questions]
    over = [question.not_linear(explainer.head) for question in questions]
    left = [part for part in over if part is not None]
    return BatchEvidence(
        logits.cpu(),
        predicted_classes(logits).cpu(),
        class_of_logit(targets, logits).cpu(),
        torch.stack(output, 1).cpu(),
        torch.stack(bias, 1).cpu(),
        torch.stack(left, 1).cpu() if left else None,
        depths,
    )


def _carried_down(
    explainer: Explainer, questions: list[Question], inputs: Tensor
) -> Iterator[DepthEvidence]:
    """Yield the depths from the deepest layer to all of them, each from the one before."""
    everywhere = range(len(explainer.reading.layers))
    for found in explainer.evidence(questions, voting=everywhere):
        segments = found.averaged or explainer.segments(found.depth, is_voting=True)
        maps = [finish_map(density, inputs, None, sums=True) for density in found.densities]
        verdict = explainer.vote(found.depth, segments)
        vote = None if verdict is None else verdict.prediction.cpu()
        yield _depth(maps, segments.labels, segments.count, found.averaged is not None, vote)


def _depth(
    maps: list[Tensor], segments: Tensor, count: int, is_flat: bool, vote: Tensor | None
) -> DepthEvidence:
    segments, on_cpu = segments.cpu(), [part.cpu() for part in maps]
    sums = [segment_sums(part.double(), segments, count) for part in on_cpu]
    exact = None if is_flat else torch.cat(on_cpu, 1).float()
    return DepthEvidence(segments, torch.stack(sums, 1), exact, vote)


def shown_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the highest logits and the label's, or the first again (N, T); of one logit it.

    Raises:
        ValueError: A label out of range or in floating point.
    """
    n_logits = logits.shape[1]
    if labels.is_floating_point() and n_logits > 1:
        raise ValueError(
            f"a label in floating point is no class index of {n_logits} logits; give integers"
        )
    n_classes = class_count(n_logits)
    outside = labels[labels >= n_classes]
    if len(outside):
        raise ValueError(
            f"label {int(outside[0])} is out of range for {n_logits} logits; labels must be 0 "
            f"to {n_classes - 1}, in the order of the model's outputs"
        )
    if n_logits == 1:
        return torch.zeros_like(labels, dtype=torch.int64).unsqueeze(1)
    first = logits.argsort(dim=1, descending=True, stable=True)[:, :_TOP]
    label = torch.where(labels < 0, first[:, 0], labels)
    return torch.cat([first, label.unsqueeze(1)], 1)
