"""``load_model``: a model by its name, with what turns pictures into its inputs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from captum_kmex.arguments import checked
from captum_kmex.classes import class_count
from captum_kmex.loading.extras import require
from captum_kmex.loading.models import model_source, with_weights
from captum_kmex.loading.preprocessing import Preprocessing
from captum_kmex.model.activations import run
from captum_kmex.text.descriptions import described

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["LoadedModel", "load_model"]


@dataclass(frozen=True)
class LoadedModel:
    """A model with what turns pictures into its inputs.

    Attributes:
        model: In evaluation mode.
        preprocessing: From a picture to an input (C, H, W).
        class_names: Names of its classes, in the order of the logits, if they are known.
    """

    model: nn.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None

    def read(self, *pictures: str | os.PathLike[str] | Image | NDArray[np.number]) -> Tensor:
        """Return pictures as a batch (N, C, H, W) on the model's device.

        Args:
            pictures: Files, folders of files, pictures of Pillow, or arrays (H, W), (H, W, 3) or
                (H, W, 4) of bytes, or of floats from 0 to 1.

        Raises:
            FileNotFoundError: There is no such file or folder.
            ValueError: One is damaged or no picture, or a folder holds none.
            TypeError: Something else was given.
        """
        require("reading pictures", "cli", "PIL", "torchvision")
        found = [x for given in pictures for x in self._inputs(given)]
        if not found:
            raise ValueError("read() takes one picture or more, such as read('cat.jpg')")
        device = next(iter(self.model.parameters()), torch.empty(0)).device
        return torch.stack(found).to(device)

    def picture(self, x: Tensor) -> NDArray[np.float64]:
        """Return an input (C, H, W) as the picture that the model saw, (H, W) or (H, W, 3)."""
        return self.preprocessing.picture(x)

    def _inputs(self, given: object) -> Iterator[Tensor]:
        from PIL.Image import Image

        from captum_kmex.loading.pictures import find_pictures, open_picture

        if isinstance(given, (str, os.PathLike)):
            for file in find_pictures([Path(given)], self.preprocessing).files:
                yield self.preprocessing(open_picture(file, self.preprocessing))
        elif isinstance(given, (Image, np.ndarray)):
            yield self.preprocessing(given if isinstance(given, Image) else _image(given))
        else:
            raise TypeError(
                "read() takes files, folders, pictures of Pillow and arrays (H, W) or (H, W, 3); "
                f"got {described(given)}"
            )


@checked
def load_model(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    num_classes: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> LoadedModel:
    """Load a model by its name, as the command line does.

    Args:
        name: ``torchvision:NAME``, ``timm:NAME``, ``hf:FOLDER`` of Hugging Face's
            ``save_pretrained``, or a model of yours, or a function that makes one:
            ``package.module:NAME`` or ``file.py:NAME``.
        weights: A file, or the name of a published set. ``None`` is torchvision's and timm's
            published ones, downloaded when they are first asked for, and for a model of yours
            the weights it comes with.
        num_classes: Number of classes, where neither name nor weights tell.
        preprocessing: From a picture to an input, where it is another than that of the published
            weights, or ImageNet's for a model of yours.

    Returns:
        The model on the CPU, in evaluation mode, with its preprocessing, and with ImageNet's
        class names if they are as many as its classes, or those of the folder.

    Raises:
        UsageError: There is no such model.
        OSError: The weights cannot be read or downloaded.
        ValueError: They do not fit the model.
        MissingExtraError: torchvision, timm or transformers is not installed.

    Example:
        >>> net = load_model("captum_kmex.demo:load_efficientnet_lite0")
        >>> str(net.preprocessing)
        'resize 256 (bicubic), crop 224x224, mean 0.5 0.5 0.5, std 0.5 0.5 0.5'
        >>> net.read(np.zeros((300, 400, 3), np.uint8)).shape
        torch.Size([1, 3, 224, 224])
    """
    source = model_source(name)
    if weights is None and source.needs_weights:
        weights = "DEFAULT"
    model = with_weights(source, None if weights is None else os.fspath(weights), num_classes)
    preprocessing = preprocessing or source.preprocessing(model)
    shape = (1, len(preprocessing.mean), *preprocessing.crop)
    logits = run(model, (torch.zeros(shape),), ())
    names = source.class_names(model, class_count(logits.shape[1]))
    return LoadedModel(model, preprocessing, None if names is None else tuple(names))


def _image(values: NDArray[np.number]) -> Image:
    from PIL import Image

    is_picture = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))
    if not is_picture or not values.size:
        raise ValueError(f"a picture is an array (H, W) or (H, W, 3); got {described(values)}")
    if np.issubdtype(values.dtype, np.floating):
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError(
                "a picture of floats goes from 0 to 1; got "
                f"{values.min():g} to {values.max():g}. Divide by its range"
            )
        values = (values * 255).round().astype(np.uint8)
    if values.dtype != np.uint8:
        raise ValueError(f"a picture is an array of uint8, or of floats; got {values.dtype}")
    return Image.fromarray(np.ascontiguousarray(values))
