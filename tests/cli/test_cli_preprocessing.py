from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from skimage import data

from captum_kmex.loading.models import model_source
from captum_kmex.loading.pictures import find_pictures
from captum_kmex.loading.preprocessing import IMAGENET, Preprocessing

PHOTO = Image.fromarray(data.chelsea())


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "convnext_tiny", "efficientnet_b0"])
def test_preprocessing_is_that_of_torchvisions_weights(name):
    found = model_source(f"torchvision:{name}").preprocessing(torch.nn.Identity())
    expected = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    assert torch.equal(found(PHOTO), expected(PHOTO))


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "vit_tiny_patch16_224"])
def test_preprocessing_is_that_of_timm(name):
    model = timm.create_model(name, pretrained=False)
    found = model_source(f"timm:{name}").preprocessing(model)
    config = timm.data.resolve_data_config({}, model=model)
    expected = timm.data.create_transform(**config)
    torch.testing.assert_close(found(PHOTO), expected(PHOTO))


def test_preprocessing_comes_back_from_json_and_pictures_from_inputs():
    squeezed = IMAGENET.changed((48, 64), (40, 64), None, None)
    assert Preprocessing.of(json.loads(json.dumps(squeezed.describe()))) == squeezed
    x = squeezed(PHOTO)
    assert x.shape == (3, 40, 64)
    shown = squeezed.picture(x)
    expected = np.asarray(PHOTO.resize((64, 48), Image.Resampling.BILINEAR))[4:44] / 255
    np.testing.assert_allclose(shown, expected, atol=1.5 / 255)


def test_grey_models_get_grey_pictures_and_colour_models_colour():
    grey = IMAGENET.changed((32,), (32,), (0.5,), (0.25,))
    assert grey(PHOTO).shape == (1, 32, 32)
    assert grey.picture(grey(PHOTO)).shape == (32, 32)
    camera = Image.fromarray(data.camera())
    x = IMAGENET.changed((32,), (32,), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))(camera)
    assert torch.equal(x[:1], grey(camera))
    assert torch.equal(x[0], x[2])


def test_impossible_preprocessing_is_refused():
    with pytest.raises(ValueError, match=r"crop 300x300 is larger than the resized picture \(256"):
        IMAGENET.changed(None, (300,), None, None)
    with pytest.raises(ValueError, match="got 1 and 3"):
        IMAGENET.changed(None, None, (0.5,), None)
    with pytest.raises(ValueError, match="positive"):
        IMAGENET.changed(None, None, None, (1.0, 0.0, 1.0))


def test_pictures_are_found_in_files_and_folders_once_and_in_order(tmp_path):
    for name in ("b/2.png", "b/1.JPG", "a.png", "b/.hidden.png", "b/deep/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        PHOTO.resize((16, 16)).save(tmp_path / name)
    (tmp_path / "b" / "notes.txt").write_text("")
    found = find_pictures(
        [tmp_path / "a.png", tmp_path / "b" / "deep", tmp_path / "a.png"], IMAGENET
    )
    assert found.names() == ["a.png", "b/deep/3.png"]
    found = find_pictures([tmp_path / "b" / "2.png", tmp_path / "b" / "deep"], IMAGENET)
    assert found.names() == ["2.png", "deep/3.png"]
    assert isinstance(found[0], torch.Tensor)  # no labels among loose files
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        find_pictures([tmp_path / "c.png"], IMAGENET)


def test_limit_draws_the_same_pictures_of_each_class_for_a_seed(tmp_path):
    for name in [f"{c}/{i}.png" for c in "xy" for i in range(9)]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        PHOTO.resize((8, 8)).save(tmp_path / name)
    pictures = find_pictures([tmp_path], IMAGENET)
    assert pictures.folders == ("x", "y")
    one, same, other = (pictures.limited(4, seed) for seed in (0, 0, 1))
    assert one.labels == (0,) * 4 + (1,) * 4
    assert one.digest() == same.digest() != other.digest()
    assert pictures.limited(20, 0).digest() == pictures.digest()
