"""Models from their names: torchvision's, timm's, Hugging Face's, or a function of yours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import nn

from captum_kmex.exceptions import UsageError
from captum_kmex.loading.hugging_face import HuggingFaceModel
from captum_kmex.loading.own_model import OwnModel
from captum_kmex.loading.preprocessing import Preprocessing
from captum_kmex.loading.weights import class_count, read_weights, set_weights
from captum_kmex.loading.zoos import TimmModel, TorchvisionModel

__all__ = ["ModelSource", "model_source", "with_weights"]


class ModelSource(Protocol):
    """Where a model comes from, and what is usual for it."""

    needs_weights: bool  # it is built with random ones

    def build(self, num_classes: int | None) -> nn.Module:
        """Return the model, its weights random unless its maker sets them."""
        ...

    def pretrained(self, weights: str) -> nn.Module:
        """Return the model with published weights, which may be downloaded."""
        ...

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        """Return the preprocessing that is usual for the model."""
        ...

    def class_names(self, model: nn.Module, n_classes: int) -> Sequence[str] | None:
        """Return the names of ImageNet's classes, if there are as many."""
        ...


def model_source(text: str) -> ModelSource:
    """Read ``torchvision:NAME``, ``timm:NAME``, ``hf:FOLDER``, or a function of the user's.

    That is ``package.module:NAME`` or ``file.py:NAME``.

    Raises:
        UsageError: Malformed, or there is no such model; names the nearest.
        MissingExtraError: torchvision, timm or transformers is not installed.
    """
    if text.startswith("hf:") and text != "hf:":
        return HuggingFaceModel(Path(text.removeprefix("hf:")).expanduser())
    place, colon, name = text.rpartition(":")
    if not colon or not name or not place:
        raise UsageError(
            "MODEL is torchvision:NAME, timm:NAME, hf:FOLDER, package.module:NAME or file.py:NAME; "
            f"got {text!r}. Did you mean torchvision:{text.strip(':')}?"
        )
    if place == "torchvision":
        return TorchvisionModel(name)
    return TimmModel(name) if place == "timm" else OwnModel(place, name)


def with_weights(source: ModelSource, weights: str | None, num_classes: int | None) -> nn.Module:
    """Build a model and give it its weights.

    The number of classes is that of the weights' head unless it is given.

    Args:
        source: Where the model comes from.
        weights: A file, a published set such as ``"DEFAULT"``, or ``None``.
        num_classes: Number of classes, where the weights do not say.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        ValueError: The weights do not fit or are refused.
        OSError: They cannot be read or downloaded.
    """
    if weights is None:
        return source.build(num_classes).eval()
    path = Path(weights).expanduser()
    if not path.exists() and weights.isidentifier() and weights.isupper():
        return source.pretrained(weights).eval()
    state = read_weights(path)
    model = source.build(num_classes)
    found = class_count(model, state) if num_classes is None else None
    if found is not None:
        model = source.build(found)
    set_weights(model, state, path)
    return model.eval()
