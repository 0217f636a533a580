from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from workplace import answer_of, error_of

from captum_kmex.loading.models import load_model, model_source
from captum_kmex.loading.weights import read_weights


@pytest.fixture(scope="module")
def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return torchvision.models.squeezenet1_1(num_classes=3).eval()


WRAPPINGS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state},
    "DataParallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "compiled": lambda state: {f"_orig_mod.module.{k}": v for k, v in state.items()},
    "Lightning": lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_weights_are_found_in_what_training_scripts_save(net, wrapping, tmp_path):
    path = tmp_path / "net.pt"
    torch.save(WRAPPINGS[wrapping](net.state_dict()), path)
    model = load_model(model_source("torchvision:squeezenet1_1"), str(path), None)
    assert not model.training
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(x), net(x))  # the head's three classes, too


def test_weights_of_timm_and_of_a_function_of_ones_own_load(tmp_path, capsys, monkeypatch):
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = timm.create_model("tf_efficientnet_lite0", num_classes=4).eval()
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    loaded = load_model(
        model_source("timm:tf_efficientnet_lite0"), str(tmp_path / "net.safetensors"), None
    )
    assert loaded.num_classes == 4
    assert torch.equal(loaded.classifier.weight, model.classifier.weight)
    code = "import timm\ndef make(num_classes):\n    print('noise')\n    return timm.create_model("
    code += "'tf_efficientnet_lite0', num_classes=num_classes)\n"
    (tmp_path / "ours_kmex.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    for name in ("ours_kmex.py:make", "ours_kmex:make"):
        assert "pass --num-classes" in error_of(capsys, "suggest", name, code=2)
        found = answer_of(
            capsys, "suggest", name, "--num-classes", 4, "--weights", "net.safetensors"
        )
        assert found["suggested"] == ["blocks.2", "blocks.4", "bn2"]
    assert "it has ['make'" in error_of(capsys, "suggest", "ours_kmex.py:mak")


class _Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("write", [torch.save, lambda c, p: p.write_bytes(pickle.dumps(c))])
def test_pickles_are_refused_and_never_run(write, tmp_path, capsys):
    trap, path = tmp_path / "sprung", tmp_path / "net.pt"
    write({"state_dict": {"a": 1}, "extra": _Trap(trap)}, path)
    error = error_of(capsys, "suggest", "torchvision:resnet18", "--weights", path)
    assert "is refused" in error
    assert "could run any code" in error
    assert not trap.exists()
    torch.load(path, weights_only=False) if write is torch.save else pickle.loads(path.read_bytes())
    assert trap.exists()  # it was a trap


def test_the_conversion_that_a_refusal_advises_works(net, tmp_path, capsys, monkeypatch):
    path = tmp_path / "net.pt"
    torch.save({"state_dict": net.state_dict(), "args": argparse.Namespace(lr=0.1)}, path)
    monkeypatch.chdir(tmp_path)
    error = error_of(capsys, "info", "torchvision:squeezenet1_1", "--weights", path)
    code = error.split('python -c "')[1].split('"')[0]
    exec(code, {})
    assert torch.equal(
        read_weights(tmp_path / "weights.pt")["classifier.1.bias"], net.classifier[1].bias
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG and more", "is no file of weights"),
        (b"", "is no file of weights"),
        (b"PK broken", "is refused: it is damaged, or"),
    ],
)
def test_foreign_and_damaged_files_are_named(content, message, tmp_path, capsys):
    path = tmp_path / "net.pt"
    path.write_bytes(content)
    assert message in error_of(capsys, "suggest", "torchvision:resnet18", "--weights", path)
    path = path.rename(tmp_path / "net.safetensors")
    error = error_of(capsys, "suggest", "torchvision:resnet18", "--weights", path)
    assert "is truncated or no safetensors file" in error


def test_weights_that_do_not_fit_are_told_apart(net, tmp_path, capsys):
    state = net.state_dict()
    del state["features.0.bias"]
    state["brand.new"] = torch.zeros(1)
    save_file(state, tmp_path / "net.safetensors")
    words = ["suggest", "torchvision:squeezenet1_1", "--weights", tmp_path / "net.safetensors"]
    error = error_of(capsys, *words)
    assert "1 missing (features.0.bias)" in error
    assert "1 left over (brand.new)" in error
    error = error_of(capsys, *words, "--num-classes", 5)
    assert "2 of other shapes (classifier.1.weight: (3, 512, 1, 1) for (5, 512, 1, 1)" in error
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert "missing" in error_of(capsys, *words[:3], tmp_path / "other.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "no tensors under their names" in error_of(capsys, *words[:3], tmp_path / "list.pt")


def test_published_weights_without_a_connection_say_what_to_do(capsys, monkeypatch):
    from urllib.error import URLError

    def offline(*args, **options):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models.get_model", offline)
    error = error_of(capsys, "suggest", "torchvision:resnet18", "--weights", "DEFAULT")
    assert "could not be downloaded (<urlopen error no route to host>)" in error
    assert "--weights FILE" in error
    error = error_of(capsys, "suggest", "torchvision:resnet18", "--weights", "IMAGENET", code=2)
    assert "IMAGENET1K_V1" in error
