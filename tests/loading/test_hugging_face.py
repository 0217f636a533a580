"""Folders of Hugging Face's ``save_pretrained``: with transformers, and with a stand-in for it."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import make_net
from torch import Tensor, nn

from captum_kmex import ClassifierPrototypes, LayerKMeansAttribution, load_model
from captum_kmex.cli.main import main
from captum_kmex.exceptions import MissingExtraError, UsageError
from captum_kmex.loading.hugging_face import HuggingFaceModel
from captum_kmex.loading.models import model_source

NAMES = ("cat", "dog", "espresso")
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None


@pytest.fixture
def picture():
    from PIL import Image

    values = np.random.default_rng(0).random((40, 60, 3))
    return Image.fromarray((values * 255).astype(np.uint8)).resize((300, 200))


# ---------------------------------------------------------------- what needs no transformers


class Output(dict):
    """As Hugging Face's outputs: a dictionary whose entries are attributes."""

    def __getattr__(self, name: str) -> object:
        return self[name]


class StandIn(nn.Module):
    def __init__(self, labels: dict[int, str]) -> None:
        super().__init__()
        self.net = make_net(channels=3)
        self.config = types.SimpleNamespace(id2label=labels)

    def forward(self, pixel_values: Tensor) -> Output:
        return Output(loss=None, logits=self.net(pixel_values))


class Processor:
    """Does what its settings say, by torchvision."""

    def __init__(self, settings: dict[str, object]) -> None:
        self.settings = settings

    def to_dict(self) -> dict[str, object]:
        return self.settings

    def __call__(self, image, return_tensors: str) -> dict[str, Tensor]:
        from torchvision.transforms import functional

        x = functional.pil_to_tensor(functional.resize(image, [48, 48])).float() / 255
        for _ in range(int(self.settings.get("flips", 0))):  # what no setting of ours says
            x = x.flip(-1)
        return {"pixel_values": functional.normalize(x, [0.5] * 3, [0.5] * 3)[None]}


SETTINGS = {
    "do_resize": True,
    "size": {"height": 48, "width": 48},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder, read by a stand-in for transformers that keeps its contract."""
    labels = {str(i): name for i, name in enumerate(NAMES)}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": labels}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SETTINGS))

    def model(path, *, local_files_only: bool, trust_remote_code: bool) -> nn.Module:
        assert local_files_only
        assert not trust_remote_code
        read = json.loads((Path(path) / "config.json").read_text())["id2label"]
        return StandIn({int(i): name for i, name in read.items()})

    def processor(path, *, local_files_only: bool, trust_remote_code: bool) -> Processor:
        assert local_files_only
        assert not trust_remote_code
        return Processor(json.loads((Path(path) / "preprocessor_config.json").read_text()))

    fake = types.ModuleType("transformers")
    fake.__spec__ = importlib.machinery.ModuleSpec("transformers", None)
    fake.AutoModelForImageClassification = types.SimpleNamespace(from_pretrained=model)
    fake.AutoImageProcessor = types.SimpleNamespace(from_pretrained=processor)
    monkeypatch.setitem(sys.modules, "transformers", fake)
    return tmp_path


def test_folder_gives_model_preprocessing_and_names(folder, picture):
    loaded = load_model(f"hf:{folder}")
    assert loaded.class_names == NAMES
    assert str(loaded.preprocessing).startswith("resize 48x48 (bilinear), crop 48x48, mean 0.5")
    x = loaded.read(picture)
    torch.testing.assert_close(x, Processor({})(picture, "pt")["pixel_values"])
    maps, delta = ClassifierPrototypes(loaded.model).attribute(x, 1, return_convergence_delta=True)
    assert delta.abs().max() < 1e-5
    assert maps.shape == (1, 1, 12, 12)


def test_command_line_explains_a_folder(folder, picture, tmp_path, capsys):
    picture.save(tmp_path / "picture.png")
    words = ["explain", f"hf:{folder}", str(tmp_path / "picture.png")]
    assert main([*words, "--output", str(tmp_path / "out"), "--target", "espresso"]) == 0
    assert "espresso" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "resize", "crop"),
    [
        ({}, (48, 48), (48, 48)),
        ({"size": 48}, (48, 48), (48, 48)),
        ({"size": {"shortest_edge": 42}, "crop_pct": 0.875}, 48, (42, 42)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, 384), (384, 384)),
        (
            {
                "size": {"shortest_edge": 64},
                "do_center_crop": True,
                "crop_size": {"height": 48, "width": 40},
            },
            64,
            (48, 40),
        ),
        ({"do_center_crop": False, "crop_size": {"height": 9, "width": 9}}, (48, 48), (48, 48)),
    ],
    ids=["sides", "number", "crop_share", "squashed", "crop", "no_crop"],
)
def test_settings_of_image_processors_are_read(changes, resize, crop, monkeypatch, folder):
    monkeypatch.setattr("captum_kmex.loading.hugging_face._agree", lambda *_: True)
    settings = json.dumps(SETTINGS | changes)
    (folder / "preprocessor_config.json").write_text(settings)
    found = HuggingFaceModel(folder).preprocessing(make_net())
    assert (found.resize, found.crop) == (resize, crop)


def test_processor_that_does_more_is_refused(folder):
    (folder / "preprocessor_config.json").write_text(json.dumps(SETTINGS | {"flips": 1}))
    with pytest.raises(UsageError, match="does more than to resize, crop and normalise; give --re"):
        load_model(f"hf:{folder}")


def test_names_that_nobody_gave_are_none(folder):
    labels = {str(i): f"LABEL_{i}" for i in range(3)}
    (folder / "config.json").write_text(json.dumps({"id2label": labels}))
    assert load_model(f"hf:{folder}").class_names is None


def test_folder_has_its_own_number_of_classes(folder):
    with pytest.raises(UsageError, match="has 3 classes; leave --num-classes out"):
        load_model(f"hf:{folder}", num_classes=7)


def test_no_folder_is_refused_before_anything_is_loaded(tmp_path):
    for name in (f"hf:{tmp_path}", "hf:google/vit-base-patch16-224"):
        with pytest.raises(UsageError, match=r"no folder with a config\.json"):
            model_source(name)


@pytest.mark.skipif(HAS_TRANSFORMERS, reason="transformers is installed")
def test_missing_package_is_named_with_its_extra(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MissingExtraError, match=r"missing transformers.*captum_kmex\[hf\]"):
        model_source(f"hf:{tmp_path}")


# ---------------------------------------------------------------- with transformers

TINY = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
STAGES = {"hidden_sizes": [8, 16, 24], "depths": [1, 1, 1]}
SQUARE = {"size": {"height": 48, "width": 48}}
CROP = {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}}
MODELS = {
    "ResNet": (
        {"embedding_size": 8, "layer_type": "basic", **STAGES},
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 56}, "crop_pct": 0.875}),
        "exact",
    ),
    "ViT": (
        {**TINY, "intermediate_size": 32, "image_size": 48, "patch_size": 8},
        ("ViTImageProcessor", SQUARE),
        "linearised",
    ),
    "ConvNext": (
        {"num_stages": 3, **STAGES},
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
        "linearised",
    ),
    "Dinov2WithRegisters": (
        {**TINY, "mlp_ratio": 2, "image_size": 56, "patch_size": 14, "num_register_tokens": 4},
        ("BitImageProcessor", CROP),
        "linearised",
    ),
}


@pytest.mark.skipif(not HAS_TRANSFORMERS, reason="needs transformers")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_models_of_hugging_face_are_explained(name, tmp_path, picture):
    import transformers

    options, (processor, settings), head = MODELS[name]
    labels = dict(enumerate(NAMES))
    config = getattr(transformers, f"{name}Config")(
        **options, id2label=labels, label2id={name: i for i, name in labels.items()}
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForImageClassification")(config).eval()
    model.save_pretrained(tmp_path)
    getattr(transformers, processor)(**settings).save_pretrained(tmp_path)
    loaded = load_model(f"hf:{tmp_path}")
    assert loaded.class_names == NAMES
    x = loaded.read(picture)
    own = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    theirs = own(picture, return_tensors="pt")["pixel_values"]
    assert (x - theirs).abs().mean() < 1e-3
    found = LayerKMeansAttribution(loaded.model, n_clusters=4).explain(x, 1)
    with torch.no_grad():
        torch.testing.assert_close(found.output, model(x).logits[:, 1])
    assert found.head == head
    assert found.delta.abs().max() < 1e-5
