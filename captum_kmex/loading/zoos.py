"""Published models: torchvision's and timm's, with what is usual for them."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from captum_kmex.exceptions import UsageError
from captum_kmex.loading.extras import require
from captum_kmex.loading.preprocessing import Preprocessing, from_timm

__all__ = ["IMAGENET_CLASSES", "TimmModel", "TorchvisionModel", "imagenet_names", "wordnet_numbers"]

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class TorchvisionModel:
    """A classifier of ``torchvision.models``."""

    name: str
    needs_weights = True

    def __post_init__(self) -> None:
        require(f"torchvision:{self.name}", "cli", "torchvision")
        from torchvision import models

        _check_known(self.name, models.list_models(module=models), "torchvision.models")

    def build(self, num_classes: int | None) -> nn.Module:
        """Return the model with random weights."""
        from torchvision import models

        options = {} if num_classes is None else {"num_classes": num_classes}
        model: nn.Module = models.get_model(self.name, weights=None, **options)
        return model

    def pretrained(self, weights: str) -> nn.Module:
        """Return the model with torchvision's weights of a name, downloaded if need be."""
        from torchvision import models

        known = [entry.name for entry in models.get_model_weights(self.name)]
        if weights != "DEFAULT" and weights not in known:
            raise UsageError(
                f"torchvision has no weights {weights} of {self.name}, only DEFAULT and {known}; "
                "pass one of them or a file"
            )
        try:
            model: nn.Module = models.get_model(self.name, weights=weights)
        except OSError as error:
            raise OSError(_offline(f"torchvision:{self.name}", error)) from error
        return model

    def preprocessing(self, model: nn.Module) -> Preprocessing:  # noqa: ARG002
        """Return what the best weights of torchvision were evaluated with."""
        from torchvision import models

        preset = models.get_model_weights(self.name).DEFAULT.transforms()
        crop = preset.crop_size[0]
        return Preprocessing(
            resize=preset.resize_size[0],
            crop=(crop, crop),
            mean=tuple(preset.mean),
            std=tuple(preset.std),
            interpolation=preset.interpolation.value,
        )

    def class_names(self, model: nn.Module, n_classes: int) -> Sequence[str] | None:  # noqa: ARG002
        """Return the names of ImageNet's classes, if there are as many."""
        from torchvision import models

        names: list[str] = models.get_model_weights(self.name).DEFAULT.meta["categories"]
        return names if n_classes == len(names) else None


@dataclass(frozen=True)
class TimmModel:
    """A classifier of timm."""

    name: str
    needs_weights = True

    def __post_init__(self) -> None:
        require(f"timm:{self.name}", "cli", "timm")
        import timm

        _check_known(self.name.partition(".")[0], timm.list_models(), "timm")

    def build(self, num_classes: int | None) -> nn.Module:
        """Return the model with random weights."""
        import timm

        options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
        model: nn.Module = timm.create_model(self.name, pretrained=False, **options)
        return model

    def pretrained(self, weights: str) -> nn.Module:
        """Return the model with timm's weights, downloaded if need be."""
        import timm

        if weights != "DEFAULT":
            raise UsageError(
                f"timm's weights are chosen in the name, as timm:resnet34.tv_in1k; got --weights "
                f"{weights}. Pass --weights DEFAULT or a file"
            )
        try:
            model: nn.Module = timm.create_model(self.name, pretrained=True)
        except (OSError, RuntimeError) as error:
            raise OSError(_offline(f"timm:{self.name}", error)) from error
        return model

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        """Return the evaluation preprocessing of the model's configuration."""
        return from_timm(model)

    def class_names(self, model: nn.Module, n_classes: int) -> Sequence[str] | None:  # noqa: ARG002
        """Return the names of ImageNet's classes, if there are as many."""
        return imagenet_names() if n_classes == IMAGENET_CLASSES else None


def imagenet_names() -> list[str]:
    """Return the names of ImageNet's classes, as timm has them."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    return [info.index_to_description(i).split(",")[0] for i in range(IMAGENET_CLASSES)]


def wordnet_numbers() -> dict[str, int]:
    """Return the class of each of ImageNet's numbers in WordNet, such as n01440764."""
    if importlib.util.find_spec("timm") is None:
        return {}
    from timm.data.imagenet_info import ImageNetInfo

    info: Any = ImageNetInfo()  # its methods have no types
    names: list[str] = info.label_names()
    return {name: number for number, name in enumerate(names)}


def _check_known(name: str, known: Sequence[str], where: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or list(known)[:3]
        raise UsageError(f"{where} has no model {name!r}; did you mean {' or '.join(near)}?")


def _offline(model: str, error: Exception) -> str:
    reason = str(error).splitlines()[0]
    return (
        f"the weights of {model} could not be downloaded ({reason}); without a connection pass "
        "--weights FILE, copied from a machine that has one"
    )
