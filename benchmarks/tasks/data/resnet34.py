"""ResNet34: ImageNet's weights, the recipe of KMEx, and where trained networks are kept."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from benchmarks.quality.task import LabelledData

__all__ = [
    "load_imagenet_weights",
    "load_trained_resnet34",
    "save_trained_resnet34",
    "train_resnet34",
]


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
            f"at {path}"
        ) from error
    return state


def train_resnet34(
    data: LabelledData, n_classes: int, epochs: int = 10, *, seed: int = 0
) -> nn.Module:
    """Train from ImageNet's weights by the recipe of KMEx (Gautam et al., 2024).

    A head without bias; SGD with momentum 0.5, learning rate 0.01 falling to 0.0001 by a cosine,
    batches of 128. On a GPU where there is one.

    Args:
        data: Standardised pictures and their classes.
        n_classes: Number of classes J.
        epochs: Passes over the data.
        seed: Seed of the head and of the batches.
    """
    torch.manual_seed(seed)
    model = _resnet34(n_classes)
    state = {k: v for k, v in load_imagenet_weights().items() if not k.startswith("fc.")}
    model.load_state_dict(state, strict=False)
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


def load_trained_resnet34(name: str, n_classes: int) -> nn.Module:
    """Return the network that was trained on a task's images.

    Raises:
        FileNotFoundError: There is no checkpoint; the message says how to make it.
    """
    path = _path(name)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint {path}; run: python -m benchmarks train {name}")
    model = _resnet34(n_classes)
    model.load_state_dict(load_file(path))
    return model.eval()


def save_trained_resnet34(name: str, model: nn.Module) -> Path:
    """Keep a trained network in torch's cache and return its path."""
    _path(name).parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, _path(name))
    return _path(name)


def _resnet34(n_classes: int) -> nn.Module:
    from torchvision.models import resnet34

    model: nn.Module = resnet34(weights=None)
    model.fc = nn.Linear(512, n_classes, bias=False)
    return model


def _path(name: str) -> Path:
    return Path(torch.hub.get_dir()) / "captum_kmex" / f"{name}.safetensors"
