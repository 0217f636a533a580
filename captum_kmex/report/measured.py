"""What the report shows of a batch whose evidence was measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_kmex.arguments.measured import Measured
from captum_kmex.attributions.layer_kmeans import LayerKMeansAttribution
from captum_kmex.attributions.one_bank import one_bank_a_call
from captum_kmex.classes import class_of_logit, predicted_classes
from captum_kmex.explanation import Explanation
from captum_kmex.report.evidence import BatchEvidence, DepthEvidence, shown_logits

__all__ = ["measured_batch"]


@one_bank_a_call
def measured_batch(
    attribution: LayerKMeansAttribution,
    inputs: Tensor,
    labels: Tensor,
    evidence: str | Measured,
) -> BatchEvidence:
    """Measure the evidence for the likeliest classes and the true one, all layers stacked.

    Parts are removed once for all classes. Every number is the one that
    ``attribution.explain(x, target, evidence=evidence)`` gives.

    Args:
        attribution: Fitted or not.
        inputs: Float tensor (N, C, H, W), on the model's device.
        labels: As in ``explain_batch``.
        evidence: ``"measured"``, or how.

    Raises:
        ValueError: As in ``explain_batch``.
    """
    at_input = attribution.is_fitted and attribution.bank_.at_input
    with torch.no_grad():
        logits = attribution.read(inputs, None, at_input, needs_head=False).logits
    targets = shown_logits(logits, labels.to(logits.device))
    found = attribution.explain_targets(inputs, list(targets.T), evidence=evidence)
    return BatchEvidence(
        logits.cpu(),
        predicted_classes(logits).cpu(),
        class_of_logit(targets, logits).cpu(),
        torch.stack([one.output for one in found], 1).cpu(),
        torch.stack([one.bias for one in found], 1).cpu(),
        None,
        (_depth(found),),
    )


def _depth(found: Sequence[Explanation]) -> DepthEvidence:
    """Return the segments, and what was measured of them for each class."""
    segments = found[0].segments.cpu()
    count = int(segments.max()) + 1
    prediction = found[0].prediction
    return DepthEvidence(
        segments,
        torch.stack([_of_rows(one, "evidence", count) for one in found], 1),
        torch.cat([one.attribution for one in found], 1).cpu().float(),
        None if prediction is None else prediction.cpu(),
        torch.stack([_of_rows(one, "error", count) for one in found], 1),
        tuple(zip(*(one.enough or () for one in found), strict=True)),
        tuple(zip(*(one.needed or () for one in found), strict=True)),
    )


def _of_rows(found: Explanation, name: str, count: int) -> Tensor:
    """Return what the rows say of each segment (N, S); 0 where an image has none such."""
    values = torch.zeros(len(found), count, dtype=torch.float64)
    for of_image, rows in zip(values, found.ledger, strict=True):
        for row in rows:
            of_image[row.segment] = getattr(row, name)
    return values
