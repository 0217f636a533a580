"""Rules for how much each layer weighs in the composite (eq. 8), and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from captum_kmex.arguments import checked

__all__ = ["WEIGHTINGS", "block_weights"]


def _balanced(widths: Sequence[int]) -> tuple[float, ...]:
    return (1.0,) * len(widths)


def _nave(widths: Sequence[int]) -> tuple[float, ...]:
    return tuple((1 + widths[0]) / (1 + width) for width in widths)


def _dimension(widths: Sequence[int]) -> tuple[float, ...]:
    return tuple(width**-0.5 for width in widths)


# name: from the channels of each block, shallow to deep, to a positive weight of each
WEIGHTINGS: Mapping[str, Callable[[Sequence[int]], tuple[float, ...]]] = {
    "balanced": _balanced,
    "nave": _nave,
    "dimension": _dimension,
}


@checked
def block_weights(weighting: str | Sequence[float], widths: Sequence[int]) -> tuple[float, ...]:
    """Return the weight of each block in the composite (eq. 8).

    Args:
        weighting: ``"balanced"`` (1), ``"nave"`` ((1 + D_first) / (1 + D_l): the shallowest block
            weighs 1, wider and so deeper ones less), ``"dimension"`` (1 / sqrt(D_l)), or one
            positive number a block.
        widths: Channels D_l of each block, shallow to deep.

    Raises:
        ValueError: Unknown name, wrong count, or a weight that is not positive.

    Reference:
        Boubekki & Clemmensen (2026), eq. 8; Boubekki et al., NAVE (2024).
    """
    if isinstance(weighting, str):
        return WEIGHTINGS[weighting](widths)
    weights = tuple(float(weight) for weight in weighting)
    if len(weights) != len(widths) or any(not 0 < weight < float("inf") for weight in weights):
        raise ValueError(
            f"weighting has {len(weights)} entries {weights} for {len(widths)} layers; pass one "
            "positive number a layer"
        )
    return weights
