"""From a picture to a model's input: resize, crop, normalise; and back for the eye."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from captum_kmex.loading.extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IMAGENET", "Preprocessing", "from_timm", "input_channels"]


_MAX_PIXELS = 64_000_000  # of a resized picture: 1x20000 pixels would become 1.3 thousand million
_MODES = ("nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos")


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a model's input, as torchvision's and timm's evaluation does it.

    Attributes:
        resize: Length of the shorter side, or height and width, in pixels.
        crop: Height and width of the central crop, in pixels.
        mean: Mean of each channel, of values from 0 to 1; one number for a grey model.
        std: Standard deviation of each channel.
        interpolation: ``"bilinear"``, ``"bicubic"``, ...
        pixel_range: Values that become black and white, of pictures with more than 8 bits a
            pixel; by default each picture's own least and largest.
        ignore_exif: Leave a picture as it lies in its file, instead of turning it upright as its
            EXIF orientation says.

    Raises:
        ValueError: The crop is larger than the picture, the picture larger than 64 megapixels,
            mean and std do not match, or a number is none that can be used.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    pixel_range: tuple[float, float] | None = None
    ignore_exif: bool = False

    def __post_init__(self) -> None:
        sides = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        if sides[0] * sides[1] > _MAX_PIXELS:
            raise ValueError(
                f"pictures resized to {sides[0]}x{sides[1]} are larger than the 64 megapixels "
                "allowed; give a smaller --resize"
            )
        if min(self.crop) < 1:
            raise ValueError(f"the sides of --crop must be at least 1; got {self.crop}")
        if any(side < part for side, part in zip(sides, self.crop, strict=True)):
            raise ValueError(
                f"the crop {self.crop[0]}x{self.crop[1]} is larger than the resized picture "
                f"({self.resize}); give --resize and --crop that go together"
            )
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError(
                "--mean and --std take one number each for grey models, three for colour; got "
                f"{len(self.mean)} and {len(self.std)}"
            )
        if not all(0 < value < math.inf for value in self.std):
            raise ValueError(f"--std must be positive; got {list(self.std)}")
        if not all(map(math.isfinite, self.mean)):
            raise ValueError(f"--mean must be finite; got {list(self.mean)}")
        if self.interpolation not in _MODES:
            raise ValueError(f"interpolation {self.interpolation!r} is none of {list(_MODES)}")
        self._check_range()

    def _check_range(self) -> None:
        given = self.pixel_range
        if given is None:
            return
        if len(given) != 2 or not all(map(math.isfinite, given)) or given[0] >= given[1]:
            raise ValueError(
                "--pixel-range takes two numbers, the smaller first, such as 0,4095; got "
                f"{list(given)}"
            )

    def fits(self, size: tuple[int, int]) -> bool:
        """Return whether a picture of a width and height is at most 64 megapixels, resized."""
        if not isinstance(self.resize, int):
            return True  # both sides are bounded
        return self.resize**2 * max(size) <= _MAX_PIXELS * min(size)

    @property
    def too_large(self) -> str:
        """What is said of pictures that do not fit."""
        return (
            f"would be larger than 64 megapixels with its shorter side resized to {self.resize}; "
            "crop it, or give both sides: --resize HxW"
        )

    def __call__(self, image: Image) -> Tensor:
        """Return the input (C, H, W) of a picture."""
        require("reading pictures", "cli", "torchvision")
        from torchvision.transforms import functional
        from torchvision.transforms.functional import InterpolationMode

        if not self.fits(image.size):
            raise ValueError(
                f"a picture of {image.size[0]}x{image.size[1]} pixels {self.too_large}"
            )
        image = image.convert("L" if len(self.mean) == 1 else "RGB")
        size = [self.resize] if isinstance(self.resize, int) else list(self.resize)
        mode = InterpolationMode(self.interpolation)
        cropped = functional.center_crop(functional.resize(image, size, mode), list(self.crop))
        values = functional.pil_to_tensor(cropped).float() / 255
        normalised: Tensor = functional.normalize(values, list(self.mean), list(self.std))
        return normalised

    def picture(self, x: Tensor) -> NDArray[np.float64]:
        """Return an input as (H, W) or (H, W, 3) in [0, 1]: the picture that was cropped."""
        values = x.detach().cpu().double().numpy().transpose(1, 2, 0)
        shown: NDArray[np.float64] = np.clip(values * self.std + self.mean, 0, 1)
        return shown[..., 0] if shown.shape[2] == 1 else shown

    def changed(
        self,
        resize: Sequence[int] | None,
        crop: Sequence[int] | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        pixel_range: Sequence[float] | None = None,
        ignore_exif: bool | None = None,
    ) -> Preprocessing:
        """Return a copy with what is given; one number of a side stands for both."""
        sides = self.resize if resize is None else _sides(resize)
        return replace(
            self,
            resize=sides if resize is None or len(resize) > 1 else resize[0],
            crop=self.crop if crop is None else _sides(crop),
            mean=self.mean if mean is None else tuple(mean),
            std=self.std if std is None else tuple(std),
            # its own check says what is wrong with another number of values
            pixel_range=self.pixel_range if pixel_range is None else tuple(pixel_range),  # type: ignore[arg-type]
            ignore_exif=self.ignore_exif if ignore_exif is None else ignore_exif,
        )

    def describe(self) -> dict[str, object]:
        """Return the settings, fit for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Preprocessing:
        """Read what ``describe`` returned, also after JSON made lists of tuples.

        Raises:
            ValueError: It is damaged, or asks for what is not allowed; says what.
        """
        try:
            resize, given = record["resize"], record.get("pixel_range")
            return cls(
                resize=int(resize) if isinstance(resize, (int, float)) else _pair(resize),
                crop=_pair(record["crop"]),
                mean=tuple(map(float, record["mean"])),
                std=tuple(map(float, record["std"])),
                interpolation=str(record["interpolation"]),
                pixel_range=None if given is None else (float(given[0]), float(given[1])),
                # what was recorded before there was a choice was fitted so
                ignore_exif=bool(record.get("ignore_exif", True)),
            )
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"the preprocessing that the bank records cannot be used ({reason}); fit again, "
                "or leave the bank out"
            ) from error

    def __str__(self) -> str:
        resize = self.resize if isinstance(self.resize, int) else "x".join(map(str, self.resize))
        mean, std = (" ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        values = (
            "" if self.pixel_range is None else ", values {:g} to {:g}".format(*self.pixel_range)
        )
        return (
            f"resize {resize} ({self.interpolation}), crop {self.crop[0]}x{self.crop[1]}, "
            f"mean {mean}, std {std}{values}{', EXIF ignored' * self.ignore_exif}"
        )


IMAGENET = Preprocessing(256, (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def from_timm(model: nn.Module) -> Preprocessing:
    """Return the evaluation preprocessing in the configuration of a timm model."""
    from timm.data.config import resolve_data_config

    config: dict[str, Any] = resolve_data_config({}, model=model)  # type: ignore[no-untyped-call]
    height, width = config["input_size"][1:]
    share = config["crop_pct"]
    squashed = config.get("crop_mode") == "squash" or height != width
    return Preprocessing(
        resize=(int(height / share), int(width / share)) if squashed else int(height / share),
        crop=(height, width),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
    )


def input_channels(model: nn.Module) -> int:
    """Return the channels that the first convolution takes; 3 if there is none."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3


def _sides(values: Sequence[int]) -> tuple[int, int]:
    return (values[0], values[-1])


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return (int(values[0]), int(values[1]))
