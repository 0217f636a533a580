"""A model by its name, and pictures of any kind as its inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from captum_kmex import LayerKMeansAttribution, LoadedModel, load_model
from captum_kmex.exceptions import UsageError
from captum_kmex.loading.preprocessing import IMAGENET, Preprocessing

PLAIN = Preprocessing(8, (8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
GREY = Preprocessing(8, (8, 8), (0.25,), (0.5,))


def tiny(channels: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    ).eval()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)


def test_files_folders_pictures_and_arrays_give_one_input(pixels, tmp_path):
    net, image = LoadedModel(tiny(), PLAIN), Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    kinds = [tmp_path / "a.png", str(tmp_path / "a.png"), tmp_path, image, pixels, pixels / 255]
    expected = PLAIN(image)
    for kind in kinds:
        torch.testing.assert_close(net.read(kind), expected[None], rtol=0, atol=1e-6)
    assert net.read(*kinds).shape == (6, 3, 8, 8)


def test_a_folder_gives_all_its_pictures_in_order(pixels, tmp_path):
    (tmp_path / "below").mkdir()
    for name, shift in (("b.png", 3), ("a.jpg", 2), ("below/c.bmp", 5)):
        Image.fromarray(np.roll(pixels, shift, 0)).save(tmp_path / name)
    net = LoadedModel(tiny(), PLAIN)
    files = [tmp_path / name for name in ("a.jpg", "b.png", "below/c.bmp")]
    assert torch.equal(net.read(tmp_path), net.read(*files))


@pytest.mark.parametrize(
    ("shape", "preprocessing"),
    [((12, 10), PLAIN), ((12, 10, 4), PLAIN), ((12, 10), GREY), ((12, 10, 3), GREY)],
)
def test_channels_become_the_models(shape, preprocessing):
    values = np.full(shape, 200, np.uint8)
    x = LoadedModel(tiny(len(preprocessing.mean)), preprocessing).read(values)
    expected = (200 / 255 - preprocessing.mean[0]) / preprocessing.std[0]
    assert x.shape == (1, len(preprocessing.mean), 8, 8)
    assert torch.allclose(x, torch.tensor(expected).float(), atol=1e-6)


def test_what_the_model_saw_is_shown(pixels):
    net = LoadedModel(tiny(), PLAIN)
    seen = net.picture(net.read(pixels)[0])
    assert seen.shape == (8, 8, 3)
    assert 0 <= seen.min() < seen.max() <= 1
    assert np.allclose(seen * 2 - 1, net.read(pixels)[0].permute(1, 2, 0), atol=1e-6)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            np.zeros((3, 12, 10), np.uint8),
            ValueError,
            r"an array \(H, W\) or \(H, W, 3\); got uint8",
        ),
        (np.zeros((12, 10), np.int64), ValueError, r"array of uint8, or of floats; got int64"),
        (np.full((12, 10), 255.0), ValueError, r"from 0 to 1; got 255 to 255"),
        (np.full((12, 10), np.nan), ValueError, r"from 0 to 1; got nan to nan"),
        (np.zeros((0, 10)), ValueError, r"an array \(H, W\)"),
        (torch.zeros(3, 8, 8), TypeError, r"read\(\) takes files, folders, .*; got float32 tensor"),
        (None, TypeError, r"read\(\) takes files, folders"),
        ("no/such/file.png", FileNotFoundError, "no file or folder"),
    ],
)
def test_what_is_no_picture_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        LoadedModel(tiny(), PLAIN).read(given)


def test_no_picture_is_refused():
    with pytest.raises(ValueError, match=r"read\(\) takes one picture or more"):
        LoadedModel(tiny(), PLAIN).read()


def test_model_of_ones_own_by_name(tmp_path):
    code = "import torch\ndef make():\n    return torch.nn.Sequential("
    code += "torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), "
    code += "torch.nn.Linear(4, 7)).train()\n"
    (tmp_path / "mine.py").write_text(code)
    net = load_model(f"{tmp_path / 'mine.py'}:make")
    assert not net.model.training
    assert (net.preprocessing, net.class_names) == (IMAGENET, None)
    state = {name: torch.zeros_like(value) for name, value in net.model.state_dict().items()}
    torch.save(state, tmp_path / "weights.pt")
    loaded = load_model(f"{tmp_path / 'mine.py'}:make", tmp_path / "weights.pt")
    assert all(not value.any() for value in loaded.model.state_dict().values())


def test_pretrained_model_explains_a_picture():
    from skimage import data

    net = load_model("captum_kmex.demo:load_efficientnet_lite0")
    assert len(net.class_names) == 1000
    x = net.read(data.chelsea(), Image.fromarray(data.coffee()))
    result = LayerKMeansAttribution(net.model, ["blocks.4", "bn2"]).explain(x)
    names = [net.class_names[c] for c in result.target.tolist()]
    assert names == ["tiger cat", "espresso"]


def test_published_weights_are_the_default(monkeypatch):
    asked = []

    def pretrained(self, weights):
        asked.append((self.name, weights))
        return self.build(None)

    monkeypatch.setattr("captum_kmex.loading.zoos.TorchvisionModel.pretrained", pretrained)
    net = load_model("torchvision:squeezenet1_1")
    assert asked == [("squeezenet1_1", "DEFAULT")]
    assert net.preprocessing.crop == (224, 224)
    assert len(net.class_names) == 1000


def test_preprocessing_of_ones_own(tmp_path, pixels):
    code = "import torch\ndef make():\n    return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), "
    code += "torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2))\n"
    (tmp_path / "grey.py").write_text(code)
    with pytest.raises(UsageError, match="takes 1 channels, for which no preprocessing is usual"):
        load_model(f"{tmp_path / 'grey.py'}:make")
    net = load_model(f"{tmp_path / 'grey.py'}:make", preprocessing=GREY)
    assert net.model(net.read(pixels)).shape == (1, 2)


@pytest.mark.parametrize("name", ["resnet50", "torchvision:resnet51", "nowhere.py:make", "", "a:b"])
def test_unknown_models_are_refused(name):
    with pytest.raises((UsageError, FileNotFoundError, ImportError)):
        load_model(name)
