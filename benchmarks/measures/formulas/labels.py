"""What each pixel shows, and what segments tell of it."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.quality.method import UnavailableError
from benchmarks.quality.task import Sample

__all__ = ["majority", "part_centres", "pixel_labels"]


def pixel_labels(sample: Sample) -> tuple[Tensor, Tensor]:
    """Return a label for each pixel (n, H, W), and where the annotated parts are (n, H, W).

    Label 0 is the background, 1 the rest of the object, 2 + p part p; where parts overlap, the
    smaller is in front. Without parts, the object is one.

    Raises:
        UnavailableError: There are neither parts nor masks.
    """
    if sample.parts is None:
        if sample.masks is None:
            raise UnavailableError("the task has neither part nor object masks")
        return sample.masks.long(), sample.masks
    n, _, height, width = sample.parts.shape
    body = torch.zeros(n, height, width) if sample.masks is None else sample.masks
    labels = body.long()
    for image, parts in zip(labels, sample.parts, strict=True):
        for p in parts.sum((1, 2)).argsort(descending=True).tolist():
            image[parts[p]] = 2 + p
    return labels, sample.parts.any(1)


def majority(clusters: Tensor, labels: Tensor) -> Tensor:
    """Return the most frequent label of each pixel's cluster; both tensors are of one shape."""
    _, cluster = clusters.flatten().unique(return_inverse=True)
    n_labels = int(labels.max()) + 1
    counts = torch.bincount(cluster * n_labels + labels.flatten())
    size = (int(cluster.max()) + 1) * n_labels
    table = torch.nn.functional.pad(counts, (0, size - len(counts))).view(-1, n_labels)
    return table.argmax(1)[cluster].view_as(labels)


def part_centres(parts: Tensor) -> Tensor:
    """Return the centroid (row, column) of each part (n, P, 2), NaN where it covers nothing."""
    height, width = parts.shape[2:]
    mass = parts.double()
    rows = (mass.sum(3) * torch.arange(height)).sum(2)
    columns = (mass.sum(2) * torch.arange(width)).sum(2)
    return torch.stack([rows, columns], 2) / mass.sum((2, 3))[..., None]
