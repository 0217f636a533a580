"""The kind of a mask: the segment of each pixel, from whatever made the segments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from captum_kmex.arguments.misfits import Misfit

__all__ = ["Mask"]

_SHAPES = "(N, 1, H, W) or (N, H, W), one mask an image, or (1, 1, H, W) or (H, W), one for all"


@dataclass(frozen=True)
class Mask:
    """Whole numbers from 0, one a pixel, as a tensor or an array; read as int64 (M, 1, H, W)."""

    said: str = "a mask (N, 1, H, W) of whole numbers, the segment of each pixel"

    def read(self, value: object) -> Tensor:
        """Return the value in its plainest form; see ``Kind``."""
        if not isinstance(value, (Tensor, np.ndarray)):
            raise Misfit(value, self.said)
        labels = _whole_numbers(value)
        if labels is None:
            raise Misfit(value, f"{self.said} ({_remedy(value)})")
        if labels.ndim not in (2, 3, 4) or not all(labels.shape) or labels.shape[1:-2] not in _ONE:
            raise Misfit(value, self.said, f"should have the shape {_SHAPES}")
        if int(labels.min()) < 0:
            reason = "has numbers below 0; count segments from 0, as by mask - mask.min()"
            raise Misfit(value, self.said, reason)
        return labels.reshape(-1, 1, *labels.shape[-2:])


_ONE = ((), (1,))  # what may stand between images and pixels


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
