"""Set IoU of concepts and parts: overlap over all images together, not image by image.

Every other image, from the first on, is there to choose on; the rest are there to score on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["held_out", "overlaps", "united"]

_CANDIDATES = 32


def overlaps(maps: Tensor, parts: Tensor, shares: Sequence[float]) -> Tensor:
    """Return the set IoU (2, K, S, P), on both halves, of each concept, cut at each share.

    A concept is where its map, bilinear at the parts' size, is at least what so large a share
    of the first half's pixels is, and above 0 (Bau et al., 2017). Maps that are 0 or 1 are
    taken as they are. The IoU with a part that a half does not show is NaN.

    Args:
        maps: Concept maps (N, K, h, w), not negative.
        parts: Where each part is, boolean tensor (N, P, H, W).
        shares: The shares S of the pixels.
    """
    truth = [half.transpose(0, 1).flatten(1).float() for half in (parts[::2], parts[1::2])]
    concepts = []
    for concept in maps.unbind(1):
        masks = _cut(concept, parts, shares)
        halves = [masks[:, half::2].flatten(1).float() for half in (0, 1)]
        concepts.append(torch.stack([_iou(m, t) for m, t in zip(halves, truth, strict=True)]))
    return torch.stack(concepts, 1)


def held_out(table: Tensor) -> Tensor:
    """Return each part's IoU (P,) on the second half, by what was best on the first.

    Args:
        table: What ``overlaps`` returns. A part that either half does not show has NaN.
    """
    chosen_on, scored_on = table.flatten(1, 2)
    best = chosen_on.nan_to_num(-1).argmax(0, keepdim=True)
    found: Tensor = scored_on.gather(0, best)[0]
    return found.masked_fill(chosen_on.isnan().all(0), torch.nan)


def united(maps: Tensor, parts: Tensor, shares: Sequence[float], table: Tensor) -> Tensor:
    """Return each part's IoU (P,) on the second half with a union of concepts.

    Concepts are added, best first, while the IoU on the first half grows; each is cut where it
    is best alone, and the 32 best alone are tried.

    Args:
        maps: Concept maps (N, K, h, w), not negative.
        parts: Where each part is, boolean tensor (N, P, H, W).
        shares: The shares S of the pixels.
        table: What ``overlaps`` returns for these.
    """
    scores = []
    for p in range(parts.shape[1]):
        ious, cuts = table[0, :, :, p].nan_to_num(-1).max(1)
        chosen = ious.argsort(descending=True, stable=True)[:_CANDIDATES].tolist()
        masks = torch.cat([_cut(maps[:, k], parts, [shares[int(cuts[k])]]) for k in chosen])
        union = _grow(masks[:, ::2].flatten(1), parts[::2, p].flatten())
        found = masks[union, 1::2].any(0).flatten().float()[None]
        scores.append(_iou(found, parts[1::2, p].flatten().float()[None])[0, 0])
    missing = table[0].isnan().flatten(0, 1).all(0)
    return torch.stack(scores).masked_fill(missing, torch.nan)


def _grow(masks: Tensor, part: Tensor) -> list[int]:
    """Return the masks (K, M) whose union overlaps a part (M,) best, found greedily."""
    best, chosen = 0.0, list[int]()
    union = torch.zeros_like(part)
    while len(chosen) < len(masks):
        ious = _iou((masks | union).float(), part.float()[None])[:, 0]
        k = int(ious.nan_to_num(0).argmax())
        if not ious[k] > best:
            break
        best = float(ious[k])
        chosen.append(k)
        union = union | masks[k]
    return chosen


def _cut(concept: Tensor, parts: Tensor, shares: Sequence[float]) -> Tensor:
    """Return where a concept's map (N, h, w) is, cut at each share, (S, N, H, W)."""
    size = tuple(parts.shape[2:])
    scaled = concept.float()
    if tuple(scaled.shape[1:]) != size:
        scaled = interpolate(scaled[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    flat = scaled[::2].flatten()
    some = flat[:: -(-len(flat) // 2**24)]  # PyTorch takes a quantile of no more
    thresholds = torch.quantile(some, 1 - torch.tensor(shares))
    return (scaled >= thresholds.view(-1, 1, 1, 1)) & (scaled > 0)


def _iou(masks: Tensor, parts: Tensor) -> Tensor:
    """Return the IoU (S, P) of masks (S, M) and parts (P, M) of zeros and ones."""
    both = (masks @ parts.T).double()
    union = masks.sum(1)[:, None] + parts.sum(1) - both
    return (both / union).where(parts.any(1), torch.nan)
