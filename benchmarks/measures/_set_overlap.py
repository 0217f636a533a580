"""Set IoU of concepts and parts: overlap over all images together, not image by image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["held_out", "overlaps"]


def overlaps(maps: Tensor, parts: Tensor, shares: Sequence[float]) -> Tensor:
    """Return the set IoU (2, K, S, P) of each concept, cut at each share, with each part.

    The first half, every other image from the first on, sets the thresholds too: a concept is
    where its map, bilinear at the parts' size, is at least what so large a share of that half's
    pixels is, and above 0 (Bau et al., 2017). Maps that are 0 or 1 are taken as they are. The
    IoU with a part that a half does not show is NaN.

    Args:
        maps: Concept maps (N, K, h, w), not negative.
        parts: Where each part is, boolean tensor (N, P, H, W).
        shares: The shares S of the pixels.
    """
    levels = 1 - torch.tensor(shares)
    truth = [half.transpose(0, 1).flatten(1).float() for half in (parts[::2], parts[1::2])]
    concepts = []
    for k in range(maps.shape[1]):
        scaled = _at_size(maps[:, k : k + 1].float(), tuple(parts.shape[2:]))
        thresholds = torch.quantile(_some(scaled[::2]), levels)[:, None]
        halves = [scaled[half::2].flatten() for half in (0, 1)]
        masks = [((half >= thresholds) & (half > 0)).float() for half in halves]
        concepts.append(torch.stack([_iou(m, t) for m, t in zip(masks, truth, strict=True)]))
    return torch.stack(concepts, 1)


def held_out(table: Tensor) -> Tensor:
    """Return each part's IoU (P,) on the second half, by what was best on the first.

    Args:
        table: What ``overlaps`` returns. A part that either half does not show has NaN.
    """
    chosen_on, scored_on = table.flatten(1, 2)
    best = chosen_on.nan_to_num(-1).argmax(0, keepdim=True)
    unknown = chosen_on.isnan().all(0)
    found: Tensor = scored_on.gather(0, best)[0]
    return found.masked_fill(unknown, torch.nan)


def _iou(masks: Tensor, parts: Tensor) -> Tensor:
    """Return the IoU (S, P) of masks (S, M) and parts (P, M) of zeros and ones."""
    both = (masks @ parts.T).double()
    union = masks.sum(1)[:, None] + parts.sum(1) - both
    return (both / union).where(parts.any(1), torch.nan)


def _at_size(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(maps.shape[2:]) == size:
        return maps[:, 0]
    return interpolate(maps, size, mode="bilinear", align_corners=False)[:, 0]


def _some(values: Tensor) -> Tensor:
    """Return values for a quantile, which PyTorch takes of no more than 2^24."""
    flat = values.flatten()
    return flat[:: -(-len(flat) // 2**24)]
