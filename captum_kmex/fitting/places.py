"""Where rows come from: the data-set index of the image, and the box of the grid cell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_kmex.bank.representatives import cell_boxes

__all__ = ["check_places", "places_of"]


def places_of(indices: Tensor, cells: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
    """Return the place of each row, integer tensor (M, 1 + 2 d) of a grid of d dimensions.

    Args:
        indices: Integer tensor (M,), data-set indices of the rows' images.
        cells: Integer tensor (M,), flat positions on the grid.
        grid: Cells along each dimension.
        size: Input values along each.
    """
    return torch.cat([indices.unsqueeze(1), cell_boxes(cells, grid, size)], 1)


def check_places(places: Tensor, name: str) -> None:
    """Compare the columns of places with each other.

    Args:
        places: Integer tensor (M, columns), none negative.
        name: What it is called in a file, for messages.

    Raises:
        ValueError: They are no index and box, or a box ends before it begins.
    """
    boxes = places[:, 1:]
    begin, end = boxes.tensor_split(2, 1)
    if not boxes.shape[1] or boxes.shape[1] % 2 or not bool((begin <= end).all()):
        raise ValueError(f"{name} holds what is no index with a box behind it")
