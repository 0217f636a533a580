"""Segments from outside: the head's map, averaged within a mask on a grid of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from captum_kmex.composite.resizing import resample_keeping_mean
from captum_kmex.explaining.ledger import LedgerRow, build_ledger
from captum_kmex.explaining.segments import segment_means

__all__ = ["GivenSegments"]


@dataclass(frozen=True, eq=False)
class GivenSegments:
    """The segments of a mask, whatever made it.

    Attributes:
        numbers: The mask's number of each pixel's segment, index tensor ``(N, *size)``.
        labels: The same, counted from 0 in each image without gaps.
        named: The mask's number of each segment (N, S); -1 where an image has fewer.
    """

    numbers: Tensor
    labels: Tensor
    named: Tensor

    @classmethod
    def of(cls, mask: Tensor | np.ndarray, logits: Tensor) -> GivenSegments:
        """Spread a mask over a batch.

        Args:
            mask: Index tensor ``(N, 1, *size)`` of numbers from 0, with any gaps; or one mask,
                for all images.
            logits: Float tensor (N, J), whose device it is brought to.

        Raises:
            ValueError: Another number of masks than of images.
        """
        images = len(logits)
        if len(mask) not in (1, images):
            raise ValueError(
                f"segments has {len(mask)} masks for {images} images; pass one of each, or one "
                "for all"
            )
        numbers = torch.as_tensor(mask, device=logits.device).squeeze(1)
        found = [torch.unique(image, return_inverse=True) for image in numbers]
        named = pad_sequence([own for own, _ in found], batch_first=True, padding_value=-1)
        labels = torch.stack([places for _, places in found])
        own = (part.expand(images, *part.shape[1:]) for part in (numbers, labels, named))
        return cls(*own)

    def average(self, density: Tensor) -> Tensor:
        """Bring a density ``(N, 1, *grid)`` to the mask's grid and average it within segments.

        Its mean, and so the sum of the map, stays what it is: on any grid the means are of as
        many pixels as there are, in float64 where the device has it.
        """
        grid = tuple(self.labels.shape[1:])
        has_float64 = density.device.type != "mps"
        fine = resample_keeping_mean(density.double() if has_float64 else density, grid)
        return segment_means(fine, self.labels, self.named.shape[1]).to(density)

    def ledger(self, maps: Tensor) -> tuple[tuple[LedgerRow, ...], ...]:
        """Return the rows of each image by the mask's numbers, largest absolute evidence first.

        Args:
            maps: Float tensor ``(N, 1, *size)`` on the mask's grid, in logit units.
        """
        ledgers = build_ledger(maps, self.labels, self.named, None)
        return tuple(tuple(replace(row, segment=row.prototype) for row in rows) for rows in ledgers)
