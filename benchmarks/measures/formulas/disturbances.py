"""Pictures disturbed as they are on their way to a network: turned, lit, noisy, compressed."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

__all__ = ["brightened", "compressed", "noised", "turned"]


def turned(pictures: Tensor, degrees: float) -> Tensor:
    """Return pictures (n, C, H, W) turned counter-clockwise about their middle, black outside."""
    height, width = pictures.shape[2:]
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    back = torch.tensor([[c, -s * height / width, 0.0], [s * width / height, c, 0.0]])
    grid = affine_grid(back.expand(len(pictures), -1, -1), list(pictures.shape), False)
    return grid_sample(pictures, grid.to(pictures), align_corners=False)


def brightened(pictures: Tensor, factor: float) -> Tensor:
    """Return pictures (n, C, H, W) in [0, 1] so many times as bright, at most white."""
    return (pictures * factor).clamp(0, 1)


def noised(pictures: Tensor, sigma: float, seed: int) -> Tensor:
    """Return pictures (n, C, H, W) in [0, 1] with Gaussian noise of this deviation."""
    noise = torch.empty_like(pictures).normal_(generator=torch.Generator().manual_seed(seed))
    return (pictures + sigma * noise).clamp(0, 1)


def compressed(pictures: Tensor, quality: int) -> Tensor:
    """Return pictures (n, C, H, W) in [0, 1] as JPEG of this quality leaves them."""
    return torch.stack([_jpeg(picture, quality) for picture in pictures])


def _jpeg(picture: Tensor, quality: int) -> Tensor:
    pixels = (picture * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "JPEG", quality=quality)
    found = np.asarray(Image.open(file), np.float32).reshape(pixels.shape) / 255
    return torch.from_numpy(found).permute(2, 0, 1)
