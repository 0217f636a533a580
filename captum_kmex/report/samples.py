"""The report's images, read batch by batch and checked."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import SupportsIndex, cast

import numpy as np
import torch
from torch import Tensor

from captum_kmex.concepts import image_of
from captum_kmex.data.items import ITEM, label_of, name_of
from captum_kmex.text.descriptions import described

__all__ = ["Samples", "read_batches"]


@dataclass(frozen=True)
class Samples:
    """One batch of the images to report.

    Attributes:
        first: Position of the first image in the data set.
        inputs: Float tensor (N, C, H, W).
        labels: Class of each image (N,); -1 where it has no label. In floating point where one
            is 0. or 1., which is a class of a model with a single logit only.
        names: File names or other names; empty where an image has none.
    """

    first: int
    inputs: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.inputs)


def read_batches(images: Sequence[object], batch_size: int) -> Iterator[Samples]:
    """Yield a data set's images, labels and names, a batch at a time.

    Args:
        images: Float tensors (C, H, W), or tuples (image, label, name), or dicts of these; a
            label may be ``None``, and both may be missing.
        batch_size: Images a batch.

    Raises:
        ValueError: Images of several sizes, or labels that are no integers.
        TypeError: Items that hold no image tensor.
    """
    for first in range(0, len(images), batch_size):
        items = [images[i] for i in range(first, min(first + batch_size, len(images)))]
        tensors = [image_of(items, i) for i in range(len(items))]
        shapes = sorted({tuple(tensor.shape) for tensor in tensors})
        if len(shapes) > 1:
            raise ValueError(
                f"images {first} to {first + len(items) - 1} have several shapes: {shapes[:3]}; "
                "resize and crop all to one size, as for the model"
            )
        labels = [_label(item, first + i) for i, item in enumerate(items)]
        names = tuple(name_of(item) for item in items)
        yield Samples(first, torch.stack(tensors), torch.tensor(labels), names)


def _label(item: object, place: int) -> int | float:
    given = label_of(item, ITEM)
    if given is None:
        return -1
    if _is_zero_or_one(given):
        return 1.0 if given == 1 else 0.0
    try:
        label = operator.index(cast("SupportsIndex", given))  # a tensor of one integer is one
    except TypeError as error:
        raise ValueError(
            f"the label of image {place} is {described(given)}, no class index; give one integer "
            "an image, or the images alone"
        ) from error
    if label < 0:
        raise ValueError(f"the label of image {place} is {label}; classes count from 0")
    return label


def _is_zero_or_one(label: object) -> bool:
    """Whether a label is 0 or 1 in floating point, as losses of a single logit take it."""
    if isinstance(label, (Tensor, np.ndarray)):
        is_one = tuple(label.shape) in ((), (1,))
        return is_one and "float" in str(label.dtype) and label.item() in (0, 1)
    return isinstance(label, float) and label in (0, 1)
