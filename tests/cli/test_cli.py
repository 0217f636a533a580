from __future__ import annotations

import importlib.util

import pytest
from nets import LAYERS, make_net
from tiny import draw
from workplace import answer_of, error_of, workplace  # noqa: F401

from captum_kmex import LayerKMeansAttribution, __version__
from captum_kmex.cli import info_command
from captum_kmex.cli.main import main
from captum_kmex.cli.options import byte_count

COMMANDS = ["explain", "fit", "report", "suggest", "info", "demo"]


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([c, "--help"] for c in COMMANDS)])
def test_help_and_version_exit_with_0(words, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(words)
    text = capsys.readouterr().out
    assert (__version__ if words == ["--version"] else "usage: captum-kmex") in text


@pytest.mark.parametrize(
    "words",
    [
        ["dance"],
        [],
        ["fit", "torchvision:resnet18"],
        ["fit", "torchvision:resnet18", "data", "--memory-budget", "lots"],
        ["fit", "torchvision:resnet18", "data", "--n-prototypes", "0"],
        ["explain", "torchvision:resnet18", "a.png", "--crop", "1x2x3"],
        ["explain", "torchvision:resnet18", "a.png", "--mean", "light"],
    ],
)
def test_malformed_words_exit_with_2(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "usage: captum-kmex" in capsys.readouterr().err


def test_options_that_do_not_go_together_return_2(tmp_path, capsys):
    model = "torchvision:resnet18"
    assert "random weights; pass --weights" in error_of(capsys, "explain", model, "a.png", code=2)
    assert "did you mean resnet18" in error_of(capsys, "info", "torchvision:resnet81", code=2)
    assert "torchvision:resnet18?" in error_of(capsys, "info", "resnet18", code=2)
    words = ["explain", model, "a.png"]
    assert "give --bank too" in error_of(capsys, *words, "--train", tmp_path, code=2)
    both = [*words, "--bank", "b.safetensors", "--layers", "layer4"]
    assert "leave out --layers" in error_of(capsys, *both, code=2)
    error = error_of(capsys, "fit", model, "data", "--output", tmp_path / "no" / "b", code=2)
    assert "create it" in error


@pytest.mark.parametrize("command", ["explain", "report", "fit", "suggest"])
@pytest.mark.parametrize(("sides", "kind"), [(1, "signals"), (3, "volumes")])
def test_models_of_signals_and_volumes_are_refused_for_that(command, sides, kind, tmp_path, capsys):
    file = tmp_path / "sided_kmex.py"
    file.write_text(
        "from torch import nn\n"
        "def make():\n"
        f"    return nn.Sequential(nn.Conv{sides}d(1, 4, 3), nn.ReLU(), "
        f"nn.AdaptiveAvgPool{sides}d(1), nn.Flatten(), nn.Linear(4, 2))\n"
    )
    draw(tmp_path / "pictures" / "a" / "0.png")
    data = [] if command == "suggest" else [tmp_path / "pictures"]
    error = error_of(capsys, command, f"{file}:make", *data, code=1)
    assert f"the model is one of {kind} (N, C, " in error
    assert "explain it in Python" in error


def test_failures_return_1_with_one_line_and_the_traceback_on_request(tmp_path, capsys):
    words = ["info", str(tmp_path / "bank.safetensors")]
    assert main(words) == 1
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("captum-kmex info: error: no bank at ")
    assert len(found.err.splitlines()) == 1
    assert main([*words, "--traceback"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_interrupt_returns_130(monkeypatch, capsys):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(info_command, "_of_bank", interrupted)
    assert main(["info", "bank.safetensors"]) == 130
    assert capsys.readouterr().err == "captum-kmex info: interrupted\n"


@pytest.mark.parametrize("place", ["torchvision", "timm"])
def test_a_missing_package_returns_2_and_names_the_extra(place, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = error_of(capsys, "info", f"{place}:resnet18", code=2)
    assert f"missing {place}" in error
    assert 'pip install "captum_kmex[cli]"' in error


def test_suggest_lists_the_candidates(capsys):
    words = ["suggest", "torchvision:resnet18", "--resize", "64x96", "--crop", "64x96"]
    found = answer_of(capsys, *words)
    assert found["input"] == [3, 64, 96]
    assert found["suggested"] == ["layer2", "layer3", "layer4"]
    last = found["candidates"][-1]
    assert last == {
        "name": "layer4",
        "kind": "Sequential",
        "width": 512,
        "grid": [2, 3],
        "is_suggested": True,
    }
    assert main([*words, "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "--layers layer2 layer3 layer4"
    assert [line.split()[0] for line in lines if line.endswith("suggested")] == found["suggested"]


def test_info_of_a_model_says_where_its_head_is_or_why_there_is_none(capsys):
    found = answer_of(capsys, "info", "torchvision:densenet121")
    assert found["head"]["tap"] == "features"
    assert found["head"]["relu"]
    assert found["head"]["linear"] == "classifier"
    assert found["n_classes"] == 1000
    found = answer_of(capsys, "info", "torchvision:mobilenet_v3_small", "--num-classes", 5)
    assert found["head"] is None
    assert "further layers stand between pooling and logits" in found["refusal"]
    assert main(["info", "torchvision:mobilenet_v3_small", "--quiet"]) == 0
    assert "of a surrogate of the logits, after captum-kmex fit" in capsys.readouterr().out


def test_a_bank_keeps_its_preprocessing(workplace, tmp_path, capsys):  # noqa: F811
    bank = tmp_path / "bank.safetensors"
    words = [*workplace.words, workplace.train, "--layers", "layer4", "--n-prototypes", 1]
    answer_of(capsys, "fit", *words, "--limit", 2, "--output", bank)
    words = ["explain", *workplace.words, workplace.test, "--bank", bank]
    assert "leave out --resize" in error_of(capsys, *words, code=2)
    # another network's weights: refused by the fingerprint
    other = ["explain", "torchvision:mobilenet_v2", "--weights", workplace.weights]
    assert "do not fit MobileNetV2" in error_of(capsys, *other, workplace.test, "--bank", bank)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2GiB", 2**31),
        ("500MB", 500 * 2**20),
        ("1.5k", 1536),
        ("77", 77),
        ("8 B", 8),
        ("1t", 2**40),
    ],
)
def test_bytes_are_read_as_people_write_them(text, expected):
    assert byte_count(text) == expected


@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")
def test_info_says_which_classes_were_fitted(images, labels, tmp_path, capsys):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2)
    path = tmp_path / "bank.safetensors"
    attr.fit([(images, labels)], n_init=1, classes=[0, 2]).bank_.save(path)
    assert answer_of(capsys, "info", path)["fitted_classes"] == [0, 2]
    assert main(["info", str(path)]) == 0
    assert "2 classes: 0, 2" in capsys.readouterr().out
    attr.fit([(images, labels)], n_init=1, labels=None).bank_.save(path)
    assert answer_of(capsys, "info", path)["fitted_classes"] is None
