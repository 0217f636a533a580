"""ResNet34: ImageNet's weights, the recipe of KMEx, and where trained networks are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from benchmarks.quality.task import LabelledData

__all__ = [
    "EPOCHS",
    "WEIGHTS",
    "load_imagenet_weights",
    "load_trained_resnet34",
    "resnet34_path",
    "resnet34_recipe",
    "save_trained_resnet34",
    "train_resnet34",
]

EPOCHS, WEIGHTS = 10, "imagenet"  # the recipe of KMEx
_NO_WEIGHTS = "none"


def load_imagenet_weights() -> dict[str, Tensor]:
    """Return torchvision's weights of ResNet34, downloaded once into torch's cache.

    Raises:
        FileNotFoundError: They are not in the cache and cannot be downloaded.
    """
    from torchvision.models import ResNet34_Weights

    weights = ResNet34_Weights.IMAGENET1K_V1
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError) as error:
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise FileNotFoundError(
            f"ResNet34's ImageNet weights could not be downloaded ({error}); put {weights.url} "
            f"at {path}, or train with --weights FILE, or without any by --weights {_NO_WEIGHTS}"
        ) from error
    return state


def train_resnet34(
    data: LabelledData,
    n_classes: int,
    epochs: int = EPOCHS,
    *,
    weights: str = WEIGHTS,
    seed: int = 0,
) -> nn.Module:
    """Train by the recipe of KMEx (Gautam et al., 2024), from ImageNet's weights.

    A head without bias; SGD with momentum 0.5, learning rate 0.01 falling to 0.0001 by a cosine,
    batches of 128. On a GPU where there is one.

    Args:
        data: Standardised pictures and their classes.
        n_classes: Number of classes J.
        epochs: Passes over the data.
        weights: What to begin with: ``"imagenet"``, a state dict of torchvision's ResNet34
            (``.pth`` or ``.safetensors``), whose head is left out, or ``"none"``: drawn anew.
        seed: Seed of the head, of weights that are drawn and of the batches.

    Raises:
        FileNotFoundError: The weights are not there; the message says what to do.
        ValueError: The file is no ResNet34's.
    """
    torch.manual_seed(seed)
    model = _resnet34(n_classes)
    _begin(model, weights)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    loader = DataLoader(data, batch_size=128, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
    steps = epochs * len(loader)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-4)
    with tqdm(total=steps, desc="training ResNet34") as bar:
        for x, y in (batch for _ in range(epochs) for batch in loader):
            loss = nn.functional.cross_entropy(model(x.to(device)), y.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
    return model.cpu().eval()


def _begin(model: nn.Module, weights: str) -> None:
    """Put the weights to begin with into a network, but for its head."""
    if weights == _NO_WEIGHTS:
        return
    state = load_imagenet_weights() if weights == WEIGHTS else _read(Path(weights))
    kept = {name: value for name, value in state.items() if not name.startswith("fc.")}
    try:
        missing, strange = model.load_state_dict(kept, strict=False)
    except RuntimeError as error:  # other shapes
        raise ValueError(f"{weights} holds no ResNet34 of torchvision: {error}") from error
    if wrong := [*(name for name in missing if not name.startswith("fc.")), *strange]:
        raise ValueError(f"{weights} holds no ResNet34 of torchvision: see {wrong[0]}")


def _read(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there; weights are {WEIGHTS}, {_NO_WEIGHTS}, or a .pth or .safetensors"
        )
    is_safe = path.suffix == ".safetensors"
    state: dict[str, Tensor] = (
        load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    )
    return state


def load_trained_resnet34(name: str, n_classes: int) -> nn.Module:
    """Return the network that was trained on a task's images.

    Raises:
        FileNotFoundError: There is no checkpoint; the message says how to make it.
    """
    path = resnet34_path(name)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint {path}; run: python -m benchmarks train {name}")
    model = _resnet34(n_classes)
    model.load_state_dict(load_file(path))
    return model.eval()


def save_trained_resnet34(name: str, model: nn.Module, recipe: Mapping[str, str]) -> Path:
    """Keep a trained network, and how it was trained, in torch's cache and return its path."""
    path = resnet34_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(state, path, {**recipe})
    return path


def resnet34_recipe(name: str) -> dict[str, str]:
    """Return how a kept network was trained; nothing where its file does not say."""
    with safe_open(resnet34_path(name), "pt") as file:
        return file.metadata() or {}


def _resnet34(n_classes: int) -> nn.Module:
    from torchvision.models import resnet34

    model: nn.Module = resnet34(weights=None)
    model.fc = nn.Linear(512, n_classes, bias=False)
    return model


def resnet34_path(name: str) -> Path:
    """Return where the network of a task is kept."""
    return Path(torch.hub.get_dir()) / "captum_kmex" / f"{name}.safetensors"
