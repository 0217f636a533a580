"""The models of the table: every classifier of torchvision, and the smallest of timm's families."""

from __future__ import annotations

import json
import warnings
from contextlib import suppress
from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor, nn
from tqdm.auto import tqdm

__all__ = ["MOST_WEIGHTS", "N_CLASSES", "built", "images_of", "names", "settled"]

N_CLASSES = 10
MOST_WEIGHTS = 60_000_000  # of timm's models but the smallest of a family
_SIDE = 64  # of the images, where a model takes any
_PLAIN = ("vit_", "deit", "beit", "eva", "cait")  # timm's transformers of any size of picture
_PLAIN_SIDE = 112  # for patches of 7, 8, 14 and 16
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_OWN_SIZE = ("inception", "maxvit", "nasnet", "pnasnet")  # that need larger ones


def names(each: int, sizes: Path) -> list[str]:
    """Return the names of the models, such as ``"timm/resnet18"``.

    Those of a family with the fewest weights come first, the largest of all last.

    Args:
        each: Models of each of timm's families: the smallest one, and those of at most
            ``MOST_WEIGHTS`` that follow.
        sizes: File of the number of weights of each model, which takes minutes to find out;
            what it lacks is added to it.
    """
    known = json.loads(sizes.read_text()) if sizes.is_file() else {}
    families = {family: timm.list_models(module=family) for family in timm.list_modules()}
    theirs = [f"timm/{name}" for models in families.values() for name in models]
    own = torchvision.models.list_models(module=torchvision.models)
    wanted = [*(f"torchvision/{name}" for name in own), *theirs]
    missing = [name for name in wanted if name not in known]
    if missing:
        known |= {name: _count(name) for name in tqdm(missing, desc="sizes")}
        sizes.write_text(json.dumps(known, indent=1) + "\n")
    ranks = {f"torchvision/{name}": 0 for name in own}
    for models in families.values():
        by_size = sorted((f"timm/{name}" for name in models), key=known.__getitem__)
        for rank, name in enumerate(by_size[:each]):
            if not rank or known[name] <= MOST_WEIGHTS:
                ranks[name] = min(rank, ranks.get(name, each))

    def turn(name: str) -> tuple[bool, int, int]:
        is_large = not 0 < known[name] <= MOST_WEIGHTS  # 0: nobody knows
        return is_large, ranks[name], known[name]

    return sorted(ranks, key=turn)


def built(name: str) -> nn.Module:
    """Return a model with random weights; those that start at zero would hide what is read."""
    torch.manual_seed(0)
    model = _bare(name)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model.eval()


def settled(model: nn.Module, images: Tensor) -> nn.Module:
    """Return a model whose batch norms know the scale of its maps, as after training.

    With the mean 0 and the variance 1 that they are made with, deep maps vanish, and what follows
    is as good as linear where it is not.
    """
    norms = [m for m in model.modules() if isinstance(m, _NORMS)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model(images)
    return model.eval()


def images_of(name: str, model: nn.Module, count: int = 2) -> Tensor:
    """Return images of a size that the model takes."""
    about = getattr(model, "default_cfg", {})
    own = about.get("input_size", (3, 224, 224))
    is_fixed = about.get("fixed_input_size", False) or "vit" in name or "swin" in name
    is_large = any(part in name for part in _OWN_SIZE)
    embeds = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if embeds == (_PLAIN_SIDE, _PLAIN_SIDE):
        own, is_fixed = (own[0], *embeds), True
    least = about.get("min_input_size", (0,))[-1]  # halo attention asserts whole windows
    side = own[-1] if is_fixed or is_large else min(max(_SIDE, least), own[-1])
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, own[0], side, side, generator=generator)
    images[..., : side // 2] += 1  # halves of another colour, so that maps vary
    return images


def _bare(name: str) -> nn.Module:
    source, _, plain = name.partition("/")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of initialisations that change one day
        if source == "timm":
            if plain.startswith(_PLAIN):
                with suppress(Exception):  # some of them are of one size after all
                    return timm.create_model(plain, num_classes=N_CLASSES, img_size=_PLAIN_SIDE)
            return timm.create_model(plain, num_classes=N_CLASSES)
        model: nn.Module = torchvision.models.get_model(plain, weights=None, num_classes=N_CLASSES)
        return model


def _count(name: str) -> int:
    """Return the number of weights of a model, 0 if it cannot be built without memory."""
    try:
        with torch.device("meta"):
            model = _bare(name)
    except Exception:  # whatever its constructor may raise
        return 0
    return sum(parameter.numel() for parameter in model.parameters())
