from __future__ import annotations

import base64
import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from workplace import CLASSES, Workplace, answer_of, error_of, workplace  # noqa: F401

import captum_kmex
from captum_kmex import LayerKMeansAttribution, PrototypeBank
from captum_kmex.cli.main import main

ROOT = Path(captum_kmex.__file__).parents[1]
LAYERS = ["layer1", "layer2", "layer3"]


@pytest.fixture(scope="session")
def bank(workplace, tmp_path_factory) -> Path:  # noqa: F811
    path = tmp_path_factory.mktemp("bank") / "photos.safetensors"
    words = ["fit", *workplace.words, str(workplace.train), "--output", str(path), "--quiet"]
    assert main([*words, "--n-prototypes", "2", "--layers", *LAYERS]) == 0
    return path


@functools.cache
def _reference(workplace: Workplace) -> LayerKMeansAttribution:  # noqa: F811
    attribution = LayerKMeansAttribution(workplace.model, LAYERS, n_prototypes=2)
    return attribution.fit(DataLoader(workplace.images(workplace.train), batch_size=16))


def test_fit_writes_the_bank_of_the_python_interface(workplace, bank):  # noqa: F811
    expected = _reference(workplace).bank_
    found = PrototypeBank.load(bank)
    for ours, theirs in zip(found.codebooks, expected.codebooks, strict=True):
        torch.testing.assert_close(ours.centroids, theirs.centroids)
        assert ours.membership.tolist() == theirs.membership.tolist()
        assert torch.equal(ours.representatives.indices, theirs.representatives.indices)
    assert found.fingerprint == expected.fingerprint
    found.check_model(workplace.model)


def test_info_says_what_the_bank_holds(bank, capsys):
    found = answer_of(capsys, "info", bank)
    assert found["layers"] == LAYERS
    assert [depth["prototypes"] for depth in found["depths"]] == [6, 6, 6]
    assert [depth["width"] for depth in found["depths"]] == [64 + 128 + 256, 128 + 256, 256]
    note = found["provenance"]["command_line"]
    assert note["class_names"] == CLASSES
    assert note["preprocessing"]["crop"] == [64, 64]
    assert note["pictures"]["count"] == 24
    assert main(["info", str(bank)]) == 0
    text = capsys.readouterr().out
    assert "3: chelsea, coffee, rocket" in text
    assert "resize 64 (bilinear), crop 64x64" in text


def test_explain_with_a_bank_gives_the_maps_of_the_python_interface(
    workplace,  # noqa: F811
    bank,
    tmp_path,
    capsys,
):
    words = ["torchvision:resnet18", "--weights", workplace.weights, workplace.test]
    words += ["--bank", bank, "--train", workplace.train, "--output", tmp_path / "out"]
    answer = answer_of(capsys, "explain", *words)  # the size is the bank's
    assert answer == json.loads((tmp_path / "out" / "index.json").read_text())
    images = workplace.images(workplace.test)
    expected = _reference(workplace).explain(torch.stack([x for x, _ in images]))
    assert [Path(row["image"]) for row in answer["images"]] == [Path(p) for p, _ in images.samples]
    for i, row in enumerate(answer["images"]):
        arrays = np.load(Path(row["folder"]) / "arrays.npz")
        np.testing.assert_allclose(arrays["attribution"][0], expected.attribution[i], atol=1e-5)
        np.testing.assert_array_equal(arrays["segments"][0], expected.segments[i])
        assert row["predicted_name"] == CLASSES[int(expected.logits[i].argmax())]
        assert row["prototypes_predict"] == int(expected.prediction[i])
        assert row["bias"] + row["evidence"] == pytest.approx(row["output"], abs=1e-4)
        assert Path(row["figure"]).stat().st_size > 10_000


@pytest.mark.slow
def test_explain_without_a_bank_takes_suggested_layers_and_contrasts_by_name(
    workplace,  # noqa: F811
    tmp_path,
    capsys,
):
    names = tmp_path / "classes.txt"
    names.write_text("\n".join(CLASSES) + "\n")
    picture = workplace.test / "coffee" / "0.png"
    words = [*workplace.words, picture, "--class-names", names, "--output", tmp_path / "out"]
    words += ["--target", "coffee", "--contrast", "rocket", "--depth", "layer3"]
    assert main(["explain", *map(str, words), "--json"]) == 0
    found = capsys.readouterr()
    assert "layer2 (8x8), layer3 (4x4), layer4 (2x2), as suggested" in found.err
    (row,) = json.loads(found.out)["images"]
    x = workplace.images(workplace.test)[1][0].unsqueeze(0)
    logits = workplace.model(x)[0]
    assert row["output"] == pytest.approx((logits[1] - logits[2]).item(), abs=1e-4)
    assert np.load(Path(row["folder"]) / "arrays.npz")["attribution"].shape == (1, 1, 4, 4)
    words = words[:-6]
    assert main(["explain", *map(str, words), "--contrast", "coffee"]) == 0
    assert "predicted as the contrast itself, zero maps: 1 of 1 picture;" in capsys.readouterr().err
    error = error_of(capsys, "explain", *words, "--target", "cofee", code=2)
    assert "did you mean coffee" in error


@pytest.mark.slow
def test_damaged_pictures_are_named_and_left_out_or_refused(
    workplace,  # noqa: F811
    tmp_path,
    capsys,
):
    data, bank = tmp_path / "data", tmp_path / "bank.safetensors"
    shutil.copytree(workplace.train, data)
    whole = (data / "coffee" / "3.png").read_bytes()
    (data / "coffee" / "3.png").write_bytes(whole[: len(whole) // 2])
    (data / "rocket" / "notes.txt").write_text("no picture, and not taken for one")
    words = [*workplace.words, data, "--layers", "layer3", "--limit", "6", "--n-prototypes", "2"]
    words += ["--output", bank, "--seed", "3"]
    error = error_of(capsys, "fit", *words, "--strict")
    assert "3.png" in error
    assert not bank.exists()
    assert main(["fit", *map(str, words), "--quiet"]) == 0
    found = capsys.readouterr()
    assert "3.png cannot be read" in found.err
    assert "fitted on 17 pictures, 1 left out" in found.out
    # the same pictures are found again, and others are refused
    words = ["torchvision:resnet18", data / "coffee" / "0.png", "--weights", workplace.weights]
    words += ["--bank", bank, "--output", tmp_path / "out"]
    assert len(answer_of(capsys, "explain", *words, "--train", data)["images"]) == 1
    error = error_of(capsys, "explain", *words, "--train", workplace.test)
    assert "other pictures than the bank was fitted on" in error


@pytest.mark.slow
def test_folders_and_classes_must_agree(workplace, tmp_path, capsys):  # noqa: F811
    data = tmp_path / "data"
    for name in ("rocket", "chelsea"):
        shutil.copytree(workplace.train / name, data / name)
    words = [*workplace.words, data, "--layers", "layer3", "--n-prototypes", "1"]
    words += ["--output", tmp_path / "bank.safetensors"]
    assert "2 class folders, the model 3 classes" in error_of(capsys, "fit", *words)
    names = tmp_path / "classes.txt"
    names.write_text("\n".join(CLASSES))
    answer_of(capsys, "fit", *words, "--class-names", names)
    membership = PrototypeBank.load(words[-1]).codebooks[0].membership
    assert membership.tolist() == [0, 2]  # by name, not by order
    answer_of(capsys, "fit", *words, "--labels", "predicted")
    assert PrototypeBank.load(words[-1]).codebooks[0].membership.tolist() == [0, 2]
    answer_of(capsys, "fit", *words, "--labels", "none")
    assert PrototypeBank.load(words[-1]).codebooks[0].membership.shape == (1, 3)


def test_report_of_measured_evidence(workplace, tmp_path, capsys):  # noqa: F811
    words = ["torchvision:resnet18", workplace.test / "coffee" / "0.png"]
    words += ["--weights", workplace.weights, "--layers", "layer3", "layer4"]
    words += ["--evidence", "measured", "--output", tmp_path / "page.html"]
    answer_of(capsys, "report", *words)
    page = (tmp_path / "page.html").read_text()
    assert '"isMeasured":true' in page
    assert '"enough":' in page


def test_report_shows_the_pictures_by_the_classes_of_their_folders(
    workplace,  # noqa: F811
    bank,
    tmp_path,
    capsys,
):
    data = tmp_path / "data"
    for name in ("rocket", "coffee"):  # a class less: labels go by name, not by order
        shutil.copytree(workplace.test / name, data / name)
    words = ["torchvision:resnet18", "--weights", workplace.weights, data, "--bank", bank]
    words += ["--train", workplace.train, "--title", "Photographs", "--batch-size", "1"]
    answer = answer_of(capsys, "report", *words, "--output", tmp_path / "page.html")
    assert answer == {
        "report": str(tmp_path / "page.html"),
        "images": 2,
        "skipped": [],
        "why_skipped": {},
    }
    text = (tmp_path / "page.html").read_text()
    assert "<title>Photographs</title>" in text
    parts = re.findall(r'<script[^>]*id="([^"]*)"[^>]*>(\{.*?\})</script>', text, re.S)
    page = {name: json.loads(content) for name, content in parts}
    assert page["report"]["classNames"] == CLASSES
    assert page["report"]["verdicts"]["label"] == [1, 2]
    assert page["report"]["verdicts"]["name"] == ["coffee/0.png", "rocket/0.png"]
    picture = base64.b64decode(page["image-0"]["picture"].partition(",")[2])
    shown = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), float)
    there = np.asarray(Image.open(data / "coffee" / "0.png"), float)
    assert np.abs(shown - there).mean() < 4  # a photograph as it was, but for its compression
    x = torch.stack([x for x, _ in workplace.images(data)])
    with torch.no_grad():
        logits = workplace.model(x)
    for i in range(2):
        record = page[f"image-{i}"]
        expected = logits[i, record["targets"]].tolist()
        assert record["output"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_commands_run_as_a_process_of_their_own(workplace, tmp_path):  # noqa: F811
    words = [*workplace.words, workplace.train, "--layers", "layer4", "--n-prototypes", "1"]
    words += ["--limit", "2", "--workers", "1", "--memory-budget", "100MB"]
    words += ["--checkpoint", tmp_path / "progress", "--output", tmp_path / "b.safetensors"]
    run = subprocess.run(
        [sys.executable, "-m", "captum_kmex", "fit", *map(str, words), "--json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout)
    assert answer["depths"] == [{"layers": ["layer4"], "prototypes": 3}]
    assert "preprocessing: resize 64" in run.stderr  # notes and bars
    assert "%|" in run.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.safetensors"]
