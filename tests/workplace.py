"""Photographs in class folders and a ResNet-18 that tells them apart, for the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from torch import Tensor, nn
from torchvision.transforms import v2

from captum_kmex.cli.main import main

SIZE = 64
CLASSES = ["chelsea", "coffee", "rocket"]
# the same by torchvision's own means, to compare with
TRANSFORM = v2.Compose(
    [
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


@dataclass(frozen=True)
class Workplace:
    """Files of a user.

    Attributes:
        train: Class folders with eight crops of a photograph each.
        test: The same with another one.
        weights: A state dict in safetensors.
        model: The network with these weights.
    """

    train: Path
    test: Path
    weights: Path
    model: nn.Module

    @property
    def words(self) -> list[str]:
        """Model, weights and size on a command line."""
        size = ["--resize", str(SIZE), "--crop", str(SIZE)]
        return ["torchvision:resnet18", "--weights", str(self.weights), *size]

    def images(self, folder: Path) -> torchvision.datasets.ImageFolder:
        """Read a folder as torchvision does."""
        return torchvision.datasets.ImageFolder(str(folder), TRANSFORM)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("workplace")
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 1)):
        for name in CLASSES:
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(count):
                _crop(getattr(data, name)(), generator).save(place / f"{i}.png")
    found = torchvision.datasets.ImageFolder(str(folder / "train"), TRANSFORM)
    inputs, labels = torch.stack([x for x, _ in found]), torch.tensor(found.targets)
    model = _network(inputs, labels)
    save_file(model.state_dict(), folder / "net.safetensors")
    return Workplace(folder / "train", folder / "test", folder / "net.safetensors", model)


def _crop(photograph: np.ndarray, generator: np.random.Generator) -> Image.Image:
    side = int(generator.integers(150, 260))
    y, x = (int(generator.integers(0, n - side)) for n in photograph.shape[:2])
    return Image.fromarray(photograph[y : y + side, x : x + side]).resize((SIZE, SIZE))


def _network(inputs: Tensor, labels: Tensor) -> nn.Module:
    """Return a random ResNet-18 whose head is the ridge regression of the classes."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=len(CLASSES)).eval()
    torch.set_rng_state(state)
    features: list[Tensor] = []
    hook = model.avgpool.register_forward_hook(lambda *seen: features.append(seen[2].flatten(1)))
    with torch.no_grad():
        model(inputs)
        hook.remove()
        x = features[0].double()
        center = x.mean(0)
        gram = (x - center).T @ (x - center)
        gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram))
        wanted = 10 * (torch.nn.functional.one_hot(labels).double() - 1 / 3)
        columns = torch.linalg.solve(gram, (x - center).T @ wanted)
        model.fc.weight.copy_(columns.T)
        model.fc.bias.copy_(-(center @ columns))
        assert (model(inputs).argmax(1) == labels).float().mean() == 1
    return model


def answer_of(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    """Run a command with --json; nothing but JSON may stand on standard output."""
    assert main([*map(str, words), "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


def error_of(capsys: pytest.CaptureFixture[str], *words: object, code: int = 1) -> str:
    """Run a command that fails with a code; return its one line of reason."""
    assert main([*map(str, words), "--quiet"]) == code
    found = capsys.readouterr()
    assert found.out == ""
    return found.err.splitlines()[-1]
