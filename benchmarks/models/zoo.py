"""The models of the table: every classifier of torchvision, and the smallest of timm's families."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import timm
import torch
import torchvision
from torch import Tensor, nn

__all__ = ["N_CLASSES", "built", "images_of", "names"]

N_CLASSES = 10
_SIDE = 96  # of the images, where a model takes any
_OWN_SIZE = ("inception", "maxvit", "nasnet", "pnasnet")  # that need larger ones


def names(each: int) -> list[str]:
    """Return the names of the models, such as ``"timm/resnet18"``, those of few weights first.

    Args:
        each: Models of each of timm's families, the smallest ones.
    """
    classifiers = torchvision.models.list_models(module=torchvision.models)
    found = list(_counted([f"torchvision/{name}" for name in classifiers]))
    for family in timm.list_modules():
        models = [f"timm/{name}" for name in timm.list_models(module=family)]
        found += sorted(_counted(models))[:each]
    return [name for _, name in sorted(found)]


def built(name: str) -> nn.Module:
    """Return a model with random weights; those that start at zero would hide what is read."""
    torch.manual_seed(0)
    model = _bare(name)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model.eval()


def images_of(name: str, model: nn.Module, count: int = 2) -> Tensor:
    """Return images of a size that the model takes."""
    about = getattr(model, "default_cfg", {})
    own = about.get("input_size", (3, 224, 224))
    is_fixed = about.get("fixed_input_size", False) or "vit" in name or "swin" in name
    is_large = any(part in name for part in _OWN_SIZE)
    side = own[-1] if is_fixed or is_large else min(_SIDE, own[-1])
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, own[0], side, side, generator=generator)
    images[..., : side // 2] += 1  # halves of another colour, so that maps vary
    return images


def _bare(name: str) -> nn.Module:
    source, _, plain = name.partition("/")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of initialisations that change one day
        if source == "timm":
            return timm.create_model(plain, num_classes=N_CLASSES)
        model: nn.Module = torchvision.models.get_model(plain, weights=None, num_classes=N_CLASSES)
        return model


def _counted(models: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the number of weights of each model, and its name."""
    for name in models:
        try:
            with torch.device("meta"):
                model = _bare(name)
        except Exception:  # not every model can be built without memory
            yield 0, name
            continue
        yield sum(parameter.numel() for parameter in model.parameters()), name
