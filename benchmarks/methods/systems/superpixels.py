"""SLIC superpixels, and what the network makes of each by itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.quality.task import Task
from captum_kmex.model.activations import trace

__all__ = ["crowded", "cut_out", "embed", "few_superpixels", "overlaps", "superpixels"]

_COMPACTNESS = 10
_GREY = 117 / 255  # what surrounds a segment in ACE


def superpixels(task: Task, inputs: Tensor, count: int) -> Tensor:
    """Return the superpixels of images, integer tensor (N, H, W), numbered from 0 in each.

    SLIC in Lab colours, compactness 10, as in ACE; it returns about as many as asked for.

    Args:
        task: The task, for the images' colours.
        inputs: Standardised images (N, C, H, W).
        count: Superpixels an image.
    """
    from skimage.segmentation import slic

    found = [
        slic(picture, count, compactness=_COMPACTNESS, start_label=0)
        for picture in _colours(task, inputs)
    ]
    return torch.from_numpy(np.stack(found)).long()


def few_superpixels(task: Task, inputs: Tensor, most: int) -> Tensor:
    """Return superpixels (N, H, W), at most so many an image and as near to it as SLIC gets."""
    parts = []
    for image in inputs.split(1):
        found = (superpixels(task, image, count) for count in range(most, 0, -1))
        parts.append(next((s for s in found if s.max() < most), torch.zeros_like(image[:, 0])))
    return torch.cat([part.long() for part in parts])


def _colours(task: Task, inputs: Tensor) -> Iterator[NDArray[np.float64]]:
    """Yield pictures (H, W, 3) in [0, 1]; grey ones three times."""
    for picture in task.pictures(inputs).double():
        yield picture.expand(3, -1, -1).permute(1, 2, 0).numpy()


def cut_out(task: Task, image: Tensor, mask: Tensor) -> Tensor:
    """Return a segment alone, grey around it, its bounding box resized to the image's size.

    Args:
        task: The task, for what grey is.
        image: Standardised image (C, H, W).
        mask: Boolean tensor (H, W), not empty.
    """
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (task.mean, task.std))
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    alone = torch.where(mask, image, (_GREY - mean) / std)[(slice(None), *box)]
    size = tuple(image.shape[1:])
    return interpolate(alone[None], size, mode="bilinear", align_corners=False)[0]


def embed(task: Task, layer: str, inputs: Tensor, batch_size: int = 64) -> Tensor:
    """Return the mean activations (N, D) of a layer."""
    parts = [trace(task.model, (x,), [layer]).features[layer] for x in inputs.split(batch_size)]
    return torch.cat([part.mean((2, 3)) for part in parts])


def overlaps(one: Tensor, other: Tensor) -> float:
    """Return the intersection over union of two boolean masks."""
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 0.0


def crowded(mask: Tensor, others: list[Tensor], limit: float = 0.5) -> bool:
    """Whether a segment repeats one of these, by intersection over union."""
    return any(overlaps(mask, other) > limit for other in others)
