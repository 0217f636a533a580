from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from captum_kmex import KMExAttribution, LayerKMeansAttribution
from captum_kmex.cli.main import main
from captum_kmex.demo import (
    digit_resnet,
    load_digits_split,
    load_efficientnet_lite0,
    load_photographs,
)


def test_cli_names_missing_packages(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["demo"]) == 2
    message = capsys.readouterr().err
    assert "timm" in message
    assert 'pip install "captum_kmex[demo]"' in message


def test_cli_refuses_an_unknown_command():
    with pytest.raises(SystemExit, match="2"):
        main(["dance"])


def test_photographs_are_recognised_by_the_packaged_network():
    from timm.data.imagenet_info import ImageNetInfo

    names, pictures, inputs = load_photographs()
    with torch.no_grad():
        predicted = load_efficientnet_lite0()(inputs).argmax(1)
    found = dict(zip(names, predicted.tolist(), strict=True))
    info = ImageNetInfo()
    # what this network says with its package's own code
    assert info.index_to_description(found["coffee"]).startswith("espresso")
    assert info.index_to_description(found["chelsea"]).startswith("tiger cat")
    assert info.index_to_description(found["cameraman"]).startswith("tripod")
    assert all(image.shape == (224, 224, 3) for image in pictures)


@pytest.mark.slow
def test_digits_split_is_stratified_and_disjoint():
    train, test = load_digits_split()
    assert torch.bincount(train.tensors[1]).tolist() == [400] * 10
    assert torch.bincount(test.tensors[1]).tolist() == [100] * 10
    kept = {image.numpy().tobytes() for image in train.tensors[0]}
    assert sum(image.numpy().tobytes() in kept for image in test.tensors[0]) == 0


@pytest.mark.slow
def test_demo_writes_a_summary_whose_ledgers_add_up(tmp_path, capsys):
    figures = plt.get_fignums()
    assert main(["demo", "--output", str(tmp_path / "demo"), "--epochs", "1", "--quiet"]) == 0
    summary = (tmp_path / "demo" / "summary.md").read_text()
    answer = capsys.readouterr().out
    assert summary in answer
    assert f"Open {(tmp_path / 'demo' / 'digits' / 'report.html').as_uri()} in" in answer
    lines = [line for line in summary.splitlines() if line.startswith("|")]
    rows = [line.split("|") for line in lines if "photographs/" in line]
    assert len(rows) == 6
    for row in rows:
        assert float(row[4]) == pytest.approx(float(row[5]), abs=2e-4)
    scores = json.loads((tmp_path / "demo" / "digits" / "scores.json").read_text())
    assert scores["test"]["KMEx"]["n_images"] == 1000
    # one epoch is enough to learn most digits; chance is 0.1
    assert all(found["accuracy"] > 0.7 for found in scores["test"].values())
    pictures = ("figure1-B4.png", "figure1-B234.png", "explained/0000.png")
    paths = [f"digits/{name}" for name in pictures] + ["photographs/cameraman-measured.png"]
    for path in paths:
        assert plt.imread(tmp_path / "demo" / path).std() > 0.05
    for part, shown in (("photographs", "cameraman"), ("digits", "A ResNet on MNIST")):
        assert shown in (tmp_path / "demo" / part / "report.html").read_text()
    assert np.load(tmp_path / "demo" / "digits" / "explained" / "arrays.npz")["logits"].shape
    assert plt.get_fignums() == figures
    # what it saved can be loaded again, and is right about as many digits
    digits = tmp_path / "demo" / "digits"
    model, (images, labels) = digit_resnet(digits / "model.safetensors"), load_digits_split()[1][:]
    for name, kind in (("KMEx", KMExAttribution), ("B234", LayerKMeansAttribution)):
        file = "kmex" if name == "KMEx" else "layers"
        again = kind.load(digits / f"{file}.safetensors", model)
        right = float((again.predict(images) == labels).float().mean())
        assert right == pytest.approx(scores["test"][name]["accuracy"])
