"""Whether a call is one that a bank is for: its layers, inputs, logits and classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.classes import class_count

__all__ = ["check_call", "check_channels", "check_classes", "check_layers", "check_logits"]


def check_layers(bank: PrototypeBank, layers: Sequence[str]) -> None:
    """Raise ``ValueError`` for other layers than those of the fit."""
    if bank.layers != tuple(layers):
        raise ValueError(
            f"the bank was fitted on layers {list(bank.layers)}, this object has "
            f"{list(layers)}; fit again"
        )


def check_call(bank: PrototypeBank, layers: Sequence[str], images: Tensor, at_input: bool) -> None:
    """Compare a call with the fit, before the forward pass.

    Args:
        bank: The prototypes.
        layers: Names of the layers, shallow to deep.
        images: The images (N, C, H, W).
        at_input: The layers are read at their input.

    Raises:
        ValueError: Other layers, another side of them, or inputs far outside the fit's.
    """
    check_layers(bank, layers)
    if bank.at_input != at_input:
        raise ValueError(
            f"the bank was fitted with attribute_to_layer_input={bank.at_input}; explain "
            "with the same, or fit again"
        )
    low, high = bank.input_range
    least, most = (float(x) for x in images.detach().aminmax())
    # wide enough for NoiseTunnel on normalised images, far too narrow for bytes
    margin = 10 * max(high - low, abs(high), abs(low))
    if least < low - margin or most > high + margin:
        raise ValueError(
            f"inputs range from {least:.4g} to {most:.4g}, the fit saw {low:.4g} to "
            f"{high:.4g}; preprocess them as the fit's images were"
        )


def check_channels(bank: PrototypeBank, maps: Sequence[Tensor]) -> None:
    """Raise ``ValueError`` for maps (N, D_l, h, w) of other channels than the prototypes'."""
    widths = [block.shape[1] for block in maps]
    found = bank.codebooks[0].centroids.shape[1]
    if sum(widths) != found:
        raise ValueError(
            f"the bank's prototypes have {found} channels, the layers {sum(widths)} "
            f"{widths}; it was fitted on another model: fit again"
        )


def check_logits(bank: PrototypeBank, logits: Tensor) -> None:
    """Raise ``ValueError`` for another number of logits than the fit's, if it had any."""
    if not bank.has_logits:
        return
    found = logits.shape[1]
    fitted = bank.provenance.get("n_logits", bank.n_classes)
    if class_count(found) != bank.n_classes or found != bank.provenance.get("n_logits", found):
        raise ValueError(
            f"the bank was fitted on {fitted} logits, the model returns "
            f"{found}; load the model it was fitted on, or fit again"
        )


def check_classes(bank: PrototypeBank, classes: Tensor) -> None:
    """Raise ``ValueError`` for a class that the bank has no prototypes of."""
    book = bank.codebooks[0]
    if book.is_agnostic:
        return
    known = book.membership.unique().to(classes.device)
    missing = classes[~torch.isin(classes, known)]
    if len(missing):
        raise ValueError(
            f"class {int(missing[0])} has no prototypes; the bank has classes "
            f"{known.tolist()[:20]}. Fit with images of it"
        )
