"""One picture from a file: regular files only, decoded whole, 8 bits a channel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from captum_kmex.loading.finding import UNREAD
from captum_kmex.loading.preprocessing import Preprocessing

__all__ = ["Check", "check_picture", "open_picture"]

_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes of more than 8 bits
_LEVELS = 64  # of 256: fewer are left of 16-bit colours that hold less than 14 bits


@dataclass(frozen=True)
class Check:
    """What is found when a file is decoded.

    Attributes:
        fault: Why it cannot be used; empty if it can.
        values: Least and largest value of a picture with more than 8 bits a pixel.
    """

    fault: str = ""
    values: tuple[float, float] | None = None


def open_picture(path: Path, preprocessing: Preprocessing | None = None) -> Image.Image:
    """Read a picture, 8 bits a channel.

    Deeper pictures (16 and 32 bits, floating point) are scaled: the preprocessing's
    ``pixel_range``, or else the picture's own least and largest value, becomes 0 to 255. It is
    turned upright as its EXIF orientation says, unless the preprocessing ignores that.

    Args:
        path: The file.
        preprocessing: What it is read for; it bounds the size.

    Raises:
        ValueError: The file is damaged, no picture, too large once resized, no regular file, or
            holds NaN.
        FileNotFoundError: There is no such file.
    """
    image = _decoded(path, preprocessing)
    if image.mode not in _DEEP:
        return image
    given = None if preprocessing is None else preprocessing.pixel_range
    values = np.asarray(image)
    return Image.fromarray(_scaled(values, *(given or _extremes(path, values))))


def check_picture(path: Path, preprocessing: Preprocessing) -> Check:
    """Decode a file as ``open_picture`` does, and say what is wrong with it."""
    try:
        image = _decoded(path, preprocessing)
        if image.mode in _DEEP:
            return Check(values=_extremes(path, np.asarray(image)))
    except (ValueError, OSError) as error:
        return Check(str(error))
    return Check()


def _decoded(path: Path, preprocessing: Preprocessing | None) -> Image.Image:
    """Return the pixels as Pillow reads them."""
    if path.exists() and not path.is_file():  # a pipe or device would never end
        raise ValueError(f"{path} is no regular file")
    too_large, is_deep_color = "", False
    try:
        with _opened(path, preprocessing) as file:
            image: Image.Image = file
            if preprocessing is not None and not preprocessing.fits(image.size):
                too_large = "{} of {}x{} pixels {}".format(
                    path, *image.size, preprocessing.too_large
                )
            else:
                is_deep_color = any(";16" in str(tile[3]) for tile in file.tile)
                image.load()
                image = _upright(image, preprocessing)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file may raise anything in one of many decoders
        raise ValueError(f"{path} cannot be read as a picture ({_reason(path, error)})") from error
    if too_large:
        raise ValueError(too_large)
    if is_deep_color and image.mode not in _DEEP:
        _check_levels(path, image)
    return image


@contextlib.contextmanager
def _opened(path: Path, preprocessing: Preprocessing | None) -> Iterator[ImageFile.ImageFile]:
    """Open a picture, as a stream where it is to be turned.

    Pillow maps plain TIFF files into memory by their name, and forgets their orientation then.
    """
    if _ignores_exif(preprocessing):
        with Image.open(path) as image:
            yield image
    else:
        with path.open("rb") as stream, Image.open(stream) as image:
            yield image


def _ignores_exif(preprocessing: Preprocessing | None) -> bool:
    return preprocessing is not None and preprocessing.ignore_exif


def _upright(image: Image.Image, preprocessing: Preprocessing | None) -> Image.Image:
    """Turn a picture as its EXIF orientation says; one whose EXIF is damaged stays."""
    if _ignores_exif(preprocessing):
        return image
    with contextlib.suppress(Exception):  # a damaged record may raise anything
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            return ImageOps.exif_transpose(image)
    return image


def _reason(path: Path, error: Exception) -> str:
    if not isinstance(error, UnidentifiedImageError):
        return str(error) or type(error).__name__
    kind = path.suffix.lower()
    is_known = kind in UNREAD and UNREAD[kind].startswith("cannot be read")
    return f"{kind[1:].upper()}; save it as JPEG or PNG" if is_known else "it is none, or damaged"


def _check_levels(path: Path, image: Image.Image) -> None:
    """Refuse 16-bit colours whose upper 8 bits, all that Pillow reads, say too little."""
    most = int(np.asarray(image)[..., :3].max())
    if most < _LEVELS:
        raise ValueError(
            f"{path} holds 16 bits a colour, of which only the upper 8 can be read; they are "
            f"{most} at most, of 255. Save it with 8 bits a colour"
        )


def _extremes(path: Path, values: NDArray[np.generic]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(f"{path} holds NaN or Inf, for which there is no grey level")
    return low, high


def _scaled(values: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    """Return values as bytes, ``low`` as 0 and ``high`` as 255."""
    share = (values.astype(np.float64) - low) / ((high - low) or 1.0)
    return (255 * np.clip(share, 0, 1)).round().astype(np.uint8)
