"""Pictures as data addresses, small enough to embed by the hundred."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image  # matplotlib, which captum brings, needs Pillow
from torch import Tensor

__all__ = ["PictureOf", "encode_array", "encode_picture"]

PictureOf = Callable[[Tensor], NDArray[np.float64]]

_PIXEL_ART = 64  # sides up to this are kept pixel by pixel
_QUALITY = 85


def encode_picture(picture: NDArray[np.generic], side: int) -> str:
    """Return a picture as ``data:image/...``: PNG where it is tiny, else JPEG.

    Args:
        picture: Bytes, or floats in [0, 1]: (H, W), (H, W, 1) or (H, W, 3).
        side: Larger pictures are reduced to this many pixels.

    Raises:
        ValueError: No such picture.
    """
    array = np.asarray(picture.detach().cpu() if isinstance(picture, Tensor) else picture)
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or not array.size:
        raise ValueError(f"picture must give an array (H, W) or (H, W, 3); got shape {array.shape}")
    if array.dtype != np.uint8:
        array = (255 * np.nan_to_num(array.astype(float)).clip(0, 1)).round().astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(array))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    is_tiny, file = max(image.size) <= _PIXEL_ART, io.BytesIO()
    kind = "png" if is_tiny else "jpeg"
    image.save(file, kind, optimize=True, **({} if is_tiny else {"quality": _QUALITY}))
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def encode_array(array: NDArray[np.generic], kind: str) -> str:
    """Return numbers as base64 of little-endian ``kind``, such as ``"f8"``."""
    return base64.b64encode(np.ascontiguousarray(array, f"<{kind}").tobytes()).decode()
