"""Image classifiers of Hugging Face, from folders that ``save_pretrained`` has written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_kmex.exceptions import UsageError
from captum_kmex.loading.extras import require
from captum_kmex.loading.preprocessing import Preprocessing
from captum_kmex.text.class_names import read_class_names

__all__ = ["HuggingFaceModel"]

_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers
_SQUASHED = 384  # from this side on, ConvNeXt's processor resizes both sides and crops nothing
_CLOSE = 0.02  # of the values' range, on average: other resizers differ by less


@dataclass(frozen=True)
class HuggingFaceModel:
    """An image classifier in a local folder; nothing is downloaded, and no code of it is run.

    Args:
        folder: As ``save_pretrained`` of a model and its image processor leaves it.

    Raises:
        UsageError: It is no such folder.
        MissingExtraError: transformers is not installed.
    """

    folder: Path
    needs_weights = False

    def __post_init__(self) -> None:
        if not (self.folder / "config.json").is_file():
            raise UsageError(
                f"hf:{self.folder} is no folder with a config.json, as save_pretrained writes it; "
                "download the model first, and pass its folder"
            )
        require(f"hf:{self.folder}", "hf", "transformers")

    def build(self, num_classes: int | None) -> nn.Module:
        """Return the model with the folder's weights.

        Raises:
            UsageError: Another number of classes is asked for, or it is no image classifier.
        """
        from transformers import AutoModelForImageClassification

        try:
            model: nn.Module = AutoModelForImageClassification.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UsageError(
                f"hf:{self.folder} cannot be opened as an image classifier: {reason}"
            ) from error
        config: Any = model.config
        found = len(config.id2label)
        if num_classes not in (None, found):
            raise UsageError(
                f"hf:{self.folder} has {found} classes; leave --num-classes out, or give {found}"
            )
        return model

    def pretrained(self, weights: str) -> nn.Module:  # noqa: ARG002  # there is one set
        """Return the model with the folder's weights."""
        return self.build(None)

    def preprocessing(self, model: nn.Module) -> Preprocessing:  # noqa: ARG002
        """Return what the folder's image processor does.

        Raises:
            UsageError: There is none, or it does more than resize, crop and normalise.
        """
        from transformers import AutoImageProcessor

        remedy = "give --resize, --crop, --mean and --std"
        try:
            processor = AutoImageProcessor.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UsageError(
                f"hf:{self.folder} has no image processor that can be read ({reason}); {remedy}"
            ) from error
        found = _of_settings(processor.to_dict())
        if found is None or not _agree(found, processor):
            raise UsageError(
                f"the {type(processor).__name__} of hf:{self.folder} does more than to resize, "
                f"crop and normalise; {remedy}"
            )
        return found

    def class_names(self, model: nn.Module, n_classes: int) -> Sequence[str] | None:
        """Return the names in the model's configuration, if somebody gave them."""
        config: Any = model.config
        names = read_class_names(dict(config.id2label))
        is_named = any(name != f"LABEL_{i}" for i, name in enumerate(names))
        return names if is_named and len(names) == n_classes else None


def _of_settings(settings: Mapping[str, Any]) -> Preprocessing | None:
    """Return the settings of an image processor in our terms, if they are all among ours."""
    size, crop = _sides(settings.get("size")), _sides(settings.get("crop_size"))
    mode = settings.get("resample")
    if not settings.get("do_resize", True) or size is None or mode is None:
        return None
    is_known = isinstance(mode, int) and 0 <= mode < len(_RESAMPLING)
    resize: int | tuple[int, int] = size
    if settings.get("crop_pct") is not None and isinstance(size, int) and size < _SQUASHED:
        resize, crop = int(size / settings["crop_pct"]), (size, size)
    elif not settings.get("do_center_crop", False) or crop is None:
        resize = (size, size) if isinstance(size, int) else size
        crop = resize
    is_scaled = settings.get("do_rescale", True)
    scale = 255 * settings.get("rescale_factor", 1 / 255) if is_scaled else 255.0
    is_normalised = settings.get("do_normalize", True)
    mean = settings["image_mean"] if is_normalised else (0.0, 0.0, 0.0)
    std = settings["image_std"] if is_normalised else (1.0, 1.0, 1.0)
    return Preprocessing(
        resize=resize,
        crop=(crop, crop) if isinstance(crop, int) else crop,
        mean=tuple(value / scale for value in mean),
        std=tuple(value / scale for value in std),
        interpolation=_RESAMPLING[mode] if is_known else "bilinear",
    )


def _sides(size: object) -> int | tuple[int, int] | None:
    """Return a size as one number, the shorter side, or as height and width."""
    if isinstance(size, int):
        return size
    if not isinstance(size, Mapping):
        return None
    if size.get("height") and size.get("width"):
        return int(size["height"]), int(size["width"])
    return int(size["shortest_edge"]) if size.get("shortest_edge") else None


def _agree(ours: Preprocessing, processor: Any) -> bool:
    """Whether both make the same of a picture that is no square, but for how they round."""
    require("reading pictures", "cli", "PIL", "torchvision")
    from PIL import Image

    rows, columns = torch.arange(300.0)[:, None], torch.arange(400.0)
    waves = [(rows / (9 + i)).sin() * (columns / (7 + i)).cos() for i in range(3)]
    picture = Image.fromarray(((torch.stack(waves, 2) + 1) * 127).byte().numpy())
    theirs: Tensor = processor(picture, return_tensors="pt")["pixel_values"][0]
    found = ours(picture)
    if found.shape != theirs.shape:
        return False
    span = float(theirs.max() - theirs.min())
    return float((found - theirs).abs().mean()) <= _CLOSE * span
