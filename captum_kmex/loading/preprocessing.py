"""From a picture to a model's input: resize, crop, normalise; and back for the eye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from captum_kmex.loading.extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IMAGENET", "Preprocessing", "from_timm", "input_channels"]


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a model's input, as torchvision's and timm's evaluation does it.

    Attributes:
        resize: Length of the shorter side, or height and width, in pixels.
        crop: Height and width of the central crop, in pixels.
        mean: Mean of each channel, of values from 0 to 1; one number for a grey model.
        std: Standard deviation of each channel.
        interpolation: ``"bilinear"``, ``"bicubic"``, ...

    Raises:
        ValueError: The crop is larger than the picture, or mean and std do not match.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        sides = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
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
        if min(self.std) <= 0:
            raise ValueError(f"--std must be positive; got {list(self.std)}")

    def __call__(self, image: Image) -> Tensor:
        """Return the input (C, H, W) of a picture."""
        require("reading pictures", "cli", "torchvision")
        from torchvision.transforms import functional
        from torchvision.transforms.functional import InterpolationMode

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
    ) -> Preprocessing:
        """Return a copy with what is given; one number of a side stands for both."""
        sides = self.resize if resize is None else _sides(resize)
        return Preprocessing(
            resize=sides if resize is None or len(resize) > 1 else resize[0],
            crop=self.crop if crop is None else _sides(crop),
            mean=self.mean if mean is None else tuple(mean),
            std=self.std if std is None else tuple(std),
            interpolation=self.interpolation,
        )

    def describe(self) -> dict[str, object]:
        """Return the settings, fit for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Preprocessing:
        """Read what ``describe`` returned, also after JSON made lists of tuples."""
        resize = record["resize"]
        return cls(
            resize=resize if isinstance(resize, int) else (resize[0], resize[1]),
            crop=(record["crop"][0], record["crop"][1]),
            mean=tuple(record["mean"]),
            std=tuple(record["std"]),
            interpolation=str(record["interpolation"]),
        )

    def __str__(self) -> str:
        resize = self.resize if isinstance(self.resize, int) else "x".join(map(str, self.resize))
        mean, std = (" ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        return (
            f"resize {resize} ({self.interpolation}), crop {self.crop[0]}x{self.crop[1]}, "
            f"mean {mean}, std {std}"
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
