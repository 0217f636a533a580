"""Run the model with parts of one image removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_kmex.measuring.fills import FILLS
from captum_kmex.model.cut import Cut

__all__ = ["remove"]

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_AREA = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def remove(
    cut: Cut,
    kept: Tensor,
    fills: Sequence[str | Tensor],
    per_pass: int,
    advance: Callable[[int], object],
) -> Tensor:
    """Run the model on an image with parts removed.

    Args:
        cut: The image, and where parts of it are removed.
        kept: Cells kept in each pass, boolean tensor (M, *grid), on any grid.
        fills: What stands in their place: names, or tensors like the image's features.
        per_pass: Images a pass, at most.
        advance: Called with the number of images after each pass.

    Returns:
        Logits of each fill and coalition, double tensor (F, M, J) on the CPU.
    """
    features = cut.features
    found = []
    for fill in fills:
        blank = FILLS[fill](features) if isinstance(fill, str) else fill.to(features)
        for some in kept.split(per_pass):
            masks = _masks(some.to(features), features.shape[2:])
            found.append(cut.logits(torch.lerp(blank, features, masks)).cpu().double())
            advance(len(some))
    return torch.cat(found).unflatten(0, (len(fills), -1))


def _masks(kept: Tensor, size: torch.Size) -> Tensor:
    """Bring masks (M, *grid) to another grid (M, 1, *size): with soft edges, or by area."""
    masks, axes = kept.unsqueeze(1), len(size)
    if masks.shape[2:] == size:
        return masks
    if all(new >= old for new, old in zip(size, masks.shape[2:], strict=True)):
        return F.interpolate(masks, size, mode=_LINEAR[axes], align_corners=False)
    return _AREA[axes](masks, tuple(size))
