"""Three ways in which two maps can be alike: in structure, in order, in their highest pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

__all__ = ["scaled", "ssim", "top_overlap"]

_C1, _C2 = 0.01**2, 0.03**2  # of values in [0, 1] (Wang et al., 2004)


def scaled(maps: Tensor, known: Tensor | None = None) -> Tensor:
    """Return maps (n, H, W) brought to [0, 1] by their extremes, double; a flat map is 0.

    Args:
        maps: Float tensor (n, H, W).
        known: Pixels that count, boolean tensor (n, H, W), the others become 0; all if ``None``.
    """
    known = torch.ones_like(maps, dtype=torch.bool) if known is None else known
    low = maps.double().masked_fill(~known, torch.inf).amin((1, 2), keepdim=True)
    high = maps.double().masked_fill(~known, -torch.inf).amax((1, 2), keepdim=True)
    span = torch.where(high > low, high - low, 1.0)
    return ((maps.double() - low) / span).masked_fill(~known, 0)


def ssim(one: Tensor, other: Tensor, known: Tensor, window: int) -> Tensor:
    """Return the structural similarity (n,) of maps, each brought to [0, 1] first.

    Args:
        one: Float tensor (n, H, W).
        other: Float tensor (n, H, W).
        known: Pixels that count, boolean tensor (n, H, W).
        window: Side of the square window, odd; windows that leave the map are left out.

    Reference:
        Wang et al., "Image quality assessment" (2004), with a flat window.
    """
    x, y = scaled(one, known), scaled(other, known)
    maps = torch.stack([x, y, x * x, y * y, x * y], 1)
    mx, my, xx, yy, xy = avg_pool2d(maps, window, stride=1).unbind(1)
    vx, vy, covariance = xx - mx * mx, yy - my * my, xy - mx * my
    index = (2 * mx * my + _C1) * (2 * covariance + _C2)
    index = index / ((mx * mx + my * my + _C1) * (vx + vy + _C2))
    inside = avg_pool2d(known[:, None].double(), window, stride=1)[:, 0] > 1 - 1e-9
    return (index * inside).sum((1, 2)) / inside.sum((1, 2))


def top_overlap(one: Tensor, other: Tensor, known: Tensor, share: float) -> Tensor:
    """Return the Jaccard index (n,) of the highest pixels of two maps.

    Of pixels that tie at the last place, each counts as much as it would on average if they were
    drawn at random: the index is the sum of the lesser weights over that of the greater ones.

    Args:
        one: Float tensor (n, H, W).
        other: Float tensor (n, H, W).
        known: Pixels that count, boolean tensor (n, H, W).
        share: Which share of these is the top.
    """
    weights = [_top_weights(m.flatten(1), known.flatten(1), share) for m in (one, other)]
    return torch.minimum(*weights).sum(1) / torch.maximum(*weights).sum(1)


def _top_weights(flat: Tensor, known: Tensor, share: float) -> Tensor:
    sizes = (known.sum(1, keepdim=True) * share).round().long().clamp(min=1)
    slack = 1e-6 * flat.abs().amax(1, keepdim=True)  # resizing leaves rounding in flat maps
    values = flat.masked_fill(~known, -torch.inf)
    last = values.sort(1, descending=True).values.gather(1, sizes - 1)
    above = values > last + slack
    tied = (values - last).abs() <= slack
    room = (sizes - above.sum(1, keepdim=True)).double() / tied.sum(1, keepdim=True)
    return above.double() + tied * room
