"""The kind of a mask: the segment of each pixel, from whatever made the segments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from captum_kmex.arguments.misfits import Misfit

__all__ = ["Mask", "masks_of"]

_SHAPES = "(N, 1, {0}) or (N, {0}), one mask an image, or (1, 1, {0}) or ({0}), one for all"
_SIDES = {1: "T", 2: "H, W", 3: "D, H, W"}
_ONE = ((), (1,))  # what may stand between images and pixels


@dataclass(frozen=True)
class Mask:
    """Whole numbers from 0, one a pixel, as a tensor or an array; read as int64.

    What its dimensions are depends on the images: ``masks_of`` tells.
    """

    said: str = "a mask (N, 1, H, W) of whole numbers, the segment of each pixel"

    def read(self, value: object) -> Tensor:
        """Return the value in its plainest form; see ``Kind``."""
        if not isinstance(value, (Tensor, np.ndarray)):
            raise Misfit(value, self.said)
        labels = _whole_numbers(value)
        if labels is None:
            raise Misfit(value, f"{self.said} ({_remedy(value)})")
        if not labels.ndim or not all(labels.shape):
            raise Misfit(value, self.said, _shapes(2))
        if int(labels.min()) < 0:
            reason = "has numbers below 0; count segments from 0, as by mask - mask.min()"
            raise Misfit(value, self.said, reason)
        return labels


def masks_of(labels: Tensor | np.ndarray, maps: Tensor, name: str = "segments") -> Tensor:
    """Return masks as int64 ``(M, 1, *size)``, one for each image or for all.

    Args:
        labels: What a ``Mask`` has read.
        maps: Maps ``(N, D, *grid)`` of the images that they are of, of any size.
        name: The argument, for the message.

    Raises:
        ValueError: Not one number for each pixel.
    """
    sides, labels = maps.ndim - 2, torch.as_tensor(labels)
    if not sides <= labels.ndim <= sides + 2 or labels.shape[1:-sides] not in _ONE:
        raise Misfit(labels, Mask.said, _shapes(sides)).error(name)
    return labels.reshape(-1, 1, *labels.shape[-sides:])


def _shapes(sides: int) -> str:
    return f"should have the shape {_SHAPES.format(_SIDES[sides])}"


def _whole_numbers(value: Tensor | np.ndarray) -> Tensor | None:
    """Return a tensor or an array of whole numbers as int64, and nothing else."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "iu":
            return None
        return torch.from_numpy(np.ascontiguousarray(value, dtype=np.int64))
    is_other = value.is_floating_point() or value.is_complex() or value.dtype == torch.bool
    is_hidden = value.is_meta or value.is_quantized or value.layout != torch.strided
    return None if is_other or is_hidden else value.detach().to(torch.int64)


def _remedy(value: Tensor | np.ndarray) -> str:
    """Say how to make whole numbers of others."""
    if value.dtype in (torch.bool, np.bool_):
        return "of one mask mask.long(), or mask.astype(int); of several, one number for each"
    return "convert it, as by mask.long() or mask.astype(int)"
