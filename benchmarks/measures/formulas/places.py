"""Where a concept is in an image: the same box for maps and for segments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from benchmarks.quality.measure import Answers
from benchmarks.quality.method import Method, UnavailableError

__all__ = ["BOX", "Places", "concept_classes", "find_places"]

BOX = 72 / 224  # side of the box over that of the image (Huang et al., 2023)


@dataclass(frozen=True)
class Places:
    """Centre of each concept in each image.

    Attributes:
        centres: Row and column in pixels, float tensor (n, K, 2), NaN where it is absent.
        size: Height and width of the images.
    """

    centres: Tensor
    size: tuple[int, int]

    @property
    def present(self) -> Tensor:
        """Whether an image has a concept, boolean tensor (n, K)."""
        return ~self.centres.isnan().any(2)

    def hits(self, points: Tensor) -> Tensor:
        """Return whether the box around each centre holds each point, boolean (n, K, P).

        Args:
            points: Row and column, float tensor (n, P, 2); NaN is in no box.
        """
        away = (self.centres[:, :, None] - points[:, None]).abs()
        return (away <= torch.tensor(self.size) * BOX / 2).all(3)

    def overlaps(self) -> Tensor:
        """Return the IoU of the boxes of each pair of concepts (n, K, K), NaN if one is absent."""
        side = torch.tensor(self.size) * BOX
        away = (self.centres[:, :, None] - self.centres[:, None]).abs()
        shared = (side - away).clamp_min(0).prod(3)
        return shared / (2 * side.prod() - shared)


def find_places(answers: Answers) -> Places:
    """Return where a method's concepts are.

    The centre of a segment is its cell farthest from the border; of a concept map, the cell of
    its maximum, in the images where that reaches half of the concept's greatest one.

    Raises:
        UnavailableError: The method has no concepts that images share.
    """
    size = (answers.sample.inputs.shape[2], answers.sample.inputs.shape[3])
    if answers.method.shares_concepts:
        cells = _inner_cells(answers.segments, _count(answers))
        grid = answers.segments.shape[1:]
    else:
        maps = answers.concepts.maps
        cells, grid = _peaks(maps), maps.shape[2:]
    return Places((cells + 0.5) * torch.tensor(size) / torch.tensor(grid) - 0.5, size)


def concept_classes(method: Method) -> Tensor | None:
    """Return the class of each concept (K,), if the method tells."""
    try:
        return method.concept_classes().cpu()
    except UnavailableError:
        return None


def _count(answers: Answers) -> int:
    """Return the number of concepts that segments are numbered by."""
    classes, seen = concept_classes(answers.method), int(answers.segments.max()) + 1
    if classes is None:
        return seen
    if seen > len(classes):
        raise ValueError(
            f"segments are numbered up to {seen - 1}, but concept_classes() knows {len(classes)} "
            "concepts; return one class for each number"
        )
    return len(classes)


def _inner_cells(segments: Tensor, count: int) -> Tensor:
    found = torch.full((len(segments), count, 2), torch.nan, dtype=torch.float64)
    for image, cells in zip(segments.numpy(), found, strict=True):
        for k in np.unique(image):
            depth = ndimage.distance_transform_edt(np.pad(image == k, 1))[1:-1, 1:-1]
            cells[k] = torch.tensor(divmod(int(depth.argmax()), image.shape[1]))
    return found


def _peaks(maps: Tensor) -> Tensor:
    highest, place = maps.flatten(2).max(2)
    cells = torch.stack([place // maps.shape[3], place % maps.shape[3]], 2).double()
    weak = (highest < highest.amax(0) / 2) | (highest <= 0)
    return cells.masked_fill(weak[..., None], torch.nan)
