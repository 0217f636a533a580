"""Loaders of the user's files, on small folders in the same layout."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models
from torchvision.datasets import STL10
from torchvision.models.squeezenet import squeezenet1_1

from benchmarks import training
from benchmarks.quality.plugins import find_tasks
from benchmarks.quality.presets import PRESETS
from benchmarks.tasks import image_folder, imagenet
from benchmarks.tasks.data import resnet34 as networks
from benchmarks.tasks.data.pictures import MEAN, STD, PictureFiles
from benchmarks.tasks.data.resnet34 import (
    load_imagenet_weights,
    save_trained_resnet34,
    train_resnet34,
)
from benchmarks.tasks.data.small_pictures import length
from benchmarks.tasks.data.stand_ins import write_cub200, write_stl10

State = dict[str, torch.Tensor]
PRESET = PRESETS["test"]
OWN = {
    "stl10": "stl10_binary",
    "cub200": "images.txt",
    "imagenet": "val",
    "image_folder": "train",
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep checkpoints of these tests in a folder of their own; no data is set."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    for name in OWN:
        monkeypatch.delenv(f"CAPTUM_KMEX_{name.upper()}", raising=False)


@pytest.fixture(name="weights")
def _weights(monkeypatch: pytest.MonkeyPatch) -> State:
    """Random weights in the place of ImageNet's."""
    torch.manual_seed(0)
    state: State = models.resnet34(weights=None).state_dict()
    for module in (networks, imagenet):
        monkeypatch.setattr(module, "load_imagenet_weights", lambda: state)
    return state


def _save(path: Path, value: int = 128, size: tuple[int, int] = (40, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def _keep_network(name: str, n_classes: int) -> None:
    torch.manual_seed(0)
    model = models.resnet34(weights=None)
    model.fc = torch.nn.Linear(512, n_classes, bias=False)
    save_trained_resnet34(name, model, {})


@pytest.mark.parametrize("name", list(OWN))
def test_task_without_files_says_what_to_set(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = find_tasks()[name]
    variable = f"CAPTUM_KMEX_{name.upper()}"
    with pytest.raises(FileNotFoundError, match=f"set {variable} to the folder with {OWN[name]}"):
        load(PRESET)
    monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"there is no {OWN[name]} in it"):
        load(PRESET)


def test_picture_files_cut_out_the_middle_or_squeeze(tmp_path: Path) -> None:
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    samples = [(tmp_path / "wide.png", 4)]
    white = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    (cut, label), (squeezed, _) = (
        PictureFiles(samples, 28, is_squeezed=flag)[0] for flag in (False, True)
    )
    assert int(label) == 4
    assert cut.shape == squeezed.shape == (3, 28, 28)
    assert torch.allclose(cut, white.view(3, 1, 1).expand_as(cut), atol=1e-5)
    assert torch.allclose(squeezed[:, 14, 14], white, atol=1e-5)
    assert (squeezed[:, :, 0] < 0).all()


@pytest.mark.bench
def test_stl10_reads_the_binary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_stl10(tmp_path / "data", 20, 4)
    monkeypatch.setenv("CAPTUM_KMEX_STL10", str(tmp_path / "data"))
    monkeypatch.setattr(STL10, "_check_integrity", lambda self: True)
    _keep_network("stl10", 10)
    task = find_tasks()["stl10"](PRESET)
    train_set, test_set = task.train, task.test
    assert train_set is not None
    assert test_set is not None
    assert (length(train_set), length(test_set)) == (18, 4)
    image, label = test_set[3]
    expected = written["test"][3] / 255
    assert torch.allclose(task.pictures(image[None])[0].double(), torch.tensor(expected), atol=1e-6)
    assert int(label) == 3
    sample = task.sample("validation", 9)
    assert sample.inputs.shape == (2, 3, 96, 96)
    assert torch.equal(sample.targets, task.predicted(sample.inputs))


def test_stl10_refuses_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stl10(tmp_path / "data", 20, 4)
    monkeypatch.setenv("CAPTUM_KMEX_STL10", str(tmp_path / "data"))
    with pytest.raises(FileNotFoundError, match="corrupted"):
        find_tasks()["stl10"](PRESET)


@pytest.mark.bench
def test_cub200_reads_boxes_parts_and_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cub200(tmp_path / "data", 10, 2)
    monkeypatch.setenv("CAPTUM_KMEX_CUB200", str(tmp_path / "data"))
    _keep_network("cub200", 2)
    task = find_tasks()["cub200"](PRESET)
    assert task.class_names == ("Kind_0", "Kind_1")
    train_set = task.train
    assert train_set is not None
    assert length(train_set) == 9
    sample = task.sample("test", 2)
    assert sample.labels is not None
    assert sample.masks is not None
    assert sample.parts is not None
    assert sorted(sample.labels.tolist()) == [0, 1]
    assert sample.part_names == ("beak", "left wing")
    # the box and the part in the picture's own pixels, asked for at each input pixel's centre
    centres = np.arange(224) + 0.5
    across, down = centres * 100 / 224, centres * 50 / 224
    box = ((down >= 5) & (down < 25))[:, None] & ((across >= 10) & (across < 50))
    assert np.array_equal(sample.masks[0].numpy(), box)
    assert not sample.parts[:, 0].any()
    part = sample.parts[1, 1]
    assert part.sum() == 72 * 72
    assert part[76:148, 76:148].all()


def test_cub200_names_a_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cub200(tmp_path / "data", 10, 2)
    (tmp_path / "data" / "bounding_boxes.txt").unlink()
    monkeypatch.setenv("CAPTUM_KMEX_CUB200", str(tmp_path / "data"))
    with pytest.raises(FileNotFoundError, match=r"bounding_boxes.txt is missing"):
        find_tasks()["cub200"](PRESET)


@pytest.mark.bench
def test_imagenet_numbers_the_classes_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: State
) -> None:
    for i in range(5):
        _save(tmp_path / "val" / "n02123159" / f"{i}.JPEG")
    _save(tmp_path / "val" / "n01440764" / "0.JPEG")
    monkeypatch.setenv("CAPTUM_KMEX_IMAGENET", str(tmp_path))
    task = find_tasks()["imagenet"](PRESET)
    assert task.train is None
    samples = [task.sample("test", 9), task.sample("validation", 9)]
    labels = [int(i) for sample in samples for i in sample.labels]  # type: ignore[union-attr]
    assert len(samples[0]) == 5
    assert sorted(task.class_names[i] for i in labels) == ["tench", *["tiger cat"] * 5]
    assert torch.equal(task.model.state_dict()["conv1.weight"], weights["conv1.weight"])


def test_imagenet_refuses_folders_that_are_no_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: State
) -> None:
    _save(tmp_path / "val" / "cats" / "0.JPEG")
    monkeypatch.setenv("CAPTUM_KMEX_IMAGENET", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no class of ImageNet: cats"):
        find_tasks()["imagenet"](PRESET)


def test_imagenet_weights_say_where_to_put_them_when_offline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(FileNotFoundError, match=r"no network.*put https://.*resnet34.*\.pth at "):
        load_imagenet_weights()


def _write_folder(folder: Path) -> None:
    for split, count in (("train", 5), ("test", 2)):
        for label, value in (("dark", 20), ("light", 230)):
            for i in range(count):
                _save(folder / split / label / f"{i}.png", value)


@pytest.mark.bench
def test_image_folder_is_trained_kept_and_loaded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weights: State,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _write_folder(tmp_path / "data")
    (tmp_path / "data" / "task.json").write_text('{"size": 32}')
    monkeypatch.setenv("CAPTUM_KMEX_IMAGE_FOLDER", str(tmp_path / "data"))
    with pytest.raises(FileNotFoundError, match=r"run: python -m benchmarks train image_folder"):
        find_tasks()["image_folder"](PRESET)
    training.main(["image_folder", "--epochs", "2"])
    assert "validation accuracy" in capsys.readouterr().out
    task = find_tasks()["image_folder"](PRESET)
    state = task.model.state_dict()
    assert "fc.bias" not in state
    assert not torch.equal(state["conv1.weight"], weights["conv1.weight"])
    sample = task.sample("test", 4)
    assert sample.labels is not None
    assert sample.inputs.shape == (4, 3, 32, 32)
    pictures = task.pictures(sample.inputs).mean((1, 2, 3)) * 255
    expected = torch.tensor([(20.0, 230.0)[int(label)] for label in sample.labels])
    assert torch.allclose(pictures, expected, atol=0.01)


def test_training_begins_with_the_weights_of_a_file_or_with_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(7)
    state = models.resnet34(weights=None, num_classes=5).state_dict()  # another head
    torch.save(state, tmp_path / "mine.pth")
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    data = torch.utils.data.TensorDataset(images, torch.arange(4) % 2)

    def begins_as(weights: str) -> bool:
        model = train_resnet34(data, 2, 1, weights=weights)
        return torch.equal(model.state_dict()["conv1.weight"], state["conv1.weight"])

    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: None)
    assert begins_as(str(tmp_path / "mine.pth"))
    assert not begins_as("none")
    del state["conv1.weight"]
    torch.save(state, tmp_path / "other.pth")
    _write_folder(tmp_path / "data")
    monkeypatch.setenv("CAPTUM_KMEX_IMAGE_FOLDER", str(tmp_path / "data"))
    for name, message in (
        ("other.pth", "holds no ResNet34 of torchvision: see conv1.weight"),
        ("none.pth", "none.pth is not there; weights are imagenet, none, or a"),
    ):
        with pytest.raises(SystemExit):
            training.main(["image_folder", "--weights", str(tmp_path / name)])
        assert message in capsys.readouterr().err


def test_image_folder_takes_a_network_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_folder(tmp_path)
    torch.manual_seed(0)
    model = squeezenet1_1(num_classes=2).eval()
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    settings = {"model": "squeezenet1_1", "checkpoint": "mine.pth", "size": 48}
    settings |= {"layers": ["features.7", "features.12"], "mean": [0, 0, 0], "std": [1, 1, 1]}
    (tmp_path / "task.json").write_text(json.dumps(settings))
    monkeypatch.setenv("CAPTUM_KMEX_IMAGE_FOLDER", str(tmp_path))
    task = find_tasks()["image_folder"](PRESET)
    inputs = task.sample("test", 2).inputs
    assert torch.equal(task.model(inputs), model(inputs))
    assert task.layers == ("features.7", "features.12")
    assert task.pictures(inputs).equal(inputs)


def test_image_folder_refuses_unknown_settings_and_other_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_folder(tmp_path)
    monkeypatch.setenv("CAPTUM_KMEX_IMAGE_FOLDER", str(tmp_path))
    _save(tmp_path / "test" / "grey" / "0.png")
    with pytest.raises(FileNotFoundError, match="only one of them has grey"):
        image_folder.load_data()
    (tmp_path / "task.json").write_text('{"modle": "resnet50"}')
    with pytest.raises(ValueError, match="has modle; known are model, checkpoint"):
        image_folder.load_data()
