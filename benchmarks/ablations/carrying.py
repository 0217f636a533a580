"""Ways of carrying the deepest layer's evidence down to finer grids."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from captum_kmex.composite.resizing import resize_matrix
from captum_kmex.composite.stack import resize_keeping_mean
from captum_kmex.explaining.segments import segment_means

__all__ = ["carry_down", "fit_to_deepest"]


def carry_down(density: Tensor, segments: Iterable[Tensor], how: str = "bilinear") -> Tensor:
    """Resize a density (N, 1, h, w) to each grid and average it in its segments, deep first."""
    for labels in segments:
        grid = (labels.shape[1], labels.shape[2])
        if how == "bilinear":
            density = resize_keeping_mean(density, grid)
        else:
            density = interpolate(density, grid, mode=how)
        density = segment_means(density, labels, int(labels.max()) + 1)
    return density


def fit_to_deepest(density: Tensor, segments: Tensor, ridge: float) -> Tensor:
    """Return the map, constant in segments, whose coarse view is nearest to the deepest map.

    Least squares with a ridge towards the segments' means, under the constraint that the sum is
    kept: an alternative to averaging, which cannot take back what resizing spread.

    Args:
        density: Deepest map (N, 1, h, w).
        segments: Index tensor (N, H, W).
        ridge: Weight of the segments' means.
    """
    grid, size = segments.shape[1:], density.shape[2:]
    cpu = torch.device("cpu")
    matrices = [resize_matrix(g, s, torch.float64, cpu) for g, s in zip(grid, size, strict=True)]
    spread = torch.kron(*matrices)  # (H * W, h * w)
    view = (spread / spread.sum(0)).T
    means = carry_down(density, [segments])
    maps = []
    for labels, start, coarse in zip(segments, means, density.double(), strict=True):
        member = nn.functional.one_hot(labels.flatten()).double()
        area = member.mean(0)
        present = area > 0
        member, area = member[:, present], area[present]
        value = (member.T @ start.flatten().double()) / member.sum(0)
        seen, missing = view @ member, coarse.flatten() - view @ member @ value
        system = torch.zeros(len(area) + 1, len(area) + 1, dtype=torch.float64)
        system[:-1, :-1] = seen.T @ seen / len(seen) + ridge * area.diag()
        system[-1, :-1] = system[:-1, -1] = area
        right = torch.cat([seen.T @ missing / len(seen), (coarse.mean() - area @ value)[None]])
        maps.append((member @ (value + torch.linalg.solve(system, right)[:-1])).view(1, *grid))
    return torch.stack(maps).to(density)
