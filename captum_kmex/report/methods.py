"""Maps of any attribution of Captum's, for the classes that the report shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from captum.attr import Attribution
from torch import Tensor

from captum_kmex.classes import class_of_logit, predicted_classes
from captum_kmex.report.evidence import BatchEvidence, shown_logits

__all__ = ["method_maps", "unexplained_batch"]


@torch.no_grad()
def unexplained_batch(
    model: Callable[[Tensor], object], inputs: Tensor, labels: Tensor
) -> BatchEvidence:
    """Return what the model says of a batch, without segments: for reports of maps alone.

    Args:
        model: Gives logits (N, J) or (N,).
        inputs: Float tensor (N, C, H, W), on the model's device.
        labels: As in ``explain_batch``.

    Raises:
        ValueError: The model returns something else, or a label is out of range.
    """
    found = model(inputs)
    if not isinstance(found, Tensor) or found.ndim not in (1, 2) or len(found) != len(inputs):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"the model should return logits (N, J) for {len(inputs)} images; got {shape}. Pass "
            "an attribution whose forward function does"
        )
    logits = found.unsqueeze(1) if found.ndim == 1 else found
    targets = shown_logits(logits, labels.to(logits.device))
    output = logits.gather(1, targets)
    return BatchEvidence(
        logits.cpu(),
        predicted_classes(logits).cpu(),
        class_of_logit(targets, logits).cpu(),
        output.cpu(),
        torch.zeros_like(output).cpu(),
        None,
        (),
    )


def method_maps(
    methods: Mapping[str, Attribution], inputs: Tensor, found: BatchEvidence
) -> dict[str, Tensor]:
    """Return each method's maps of the shown classes (N, T, h, w), on the CPU; channels are added.

    Args:
        methods: Attributions by name.
        inputs: Float tensor (N, C, H, W), on the model's device.
        found: The batch, with the classes that it shows.

    Raises:
        ValueError: A method makes no maps of the images.
    """
    columns: list[Tensor | None] = [*found.targets.to(inputs.device).T]
    if found.logits.shape[1] == 1:  # which may have no axis that a target could point at
        columns = [None] * len(columns)
    return {
        name: torch.stack([_map(name, method, inputs, target) for target in columns], 1)
        for name, method in methods.items()
    }


def _map(name: str, method: Attribution, inputs: Tensor, target: Tensor | None) -> Tensor:
    with torch.enable_grad():
        made = method.attribute(inputs.detach().clone().requires_grad_(), target=target)
    made = made[0] if isinstance(made, tuple) else made
    if not isinstance(made, Tensor) or made.ndim != 4 or len(made) != len(inputs):
        shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise ValueError(
            f"{name} should make maps (N, C, h, w) of {len(inputs)} images; got {shape}. Leave it "
            "out, or pass one that explains pixels or a layer with a grid"
        )
    summed: Tensor = made.detach().double().sum(1).cpu()
    return summed
