from __future__ import annotations

import argparse
import os
import pickle
import random
import sys
import types
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from workplace import answer_of, error_of

from captum_kmex.exceptions import LeftOutWeightsWarning
from captum_kmex.loading.models import model_source, with_weights
from captum_kmex.loading.opaque import opaque_kind
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
    "any prefix": lambda state: {"state_dict": {f"net.body_2.{k}": v for k, v in state.items()}},
    "EMA of equal values": lambda state: {
        **{f"model.{k}": v for k, v in state.items()},
        **{f"ema.{k}": v.clone() for k, v in state.items()},
    },
}
BESIDE = {"criterion.weight": torch.ones(3), "val_metrics.acc.total": torch.tensor(7)}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_weights_are_found_in_what_training_scripts_save(net, wrapping, tmp_path):
    path = tmp_path / "net.pt"
    torch.save(WRAPPINGS[wrapping](net.state_dict()), path)
    model = with_weights(model_source("torchvision:squeezenet1_1"), str(path), None)
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
    loaded = with_weights(
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
    assert "it has make" in error_of(capsys, "suggest", "ours_kmex.py:mak")


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


@pytest.mark.parametrize("prefix", ["model.", "net.", "student.backbone.", "_orig_mod.module.", ""])
def test_what_stands_beside_a_lightning_model_is_left_out_and_said(prefix, net, tmp_path):
    state = {f"{prefix}{k}": v for k, v in net.state_dict().items()} | BESIDE
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.5", "epoch": 3}, path)
    with pytest.warns(LeftOutWeightsWarning, match=r"2 tensors .*\(criterion\.weight, val_met"):
        model = with_weights(model_source("torchvision:squeezenet1_1"), str(path), None)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(x), net(x))


def test_prefixed_weights_say_what_is_missing_or_left_over_in_them(net, tmp_path, capsys):
    state = {f"net.{k}": v for k, v in net.state_dict().items()} | BESIDE
    del state["net.features.0.bias"]
    state["net.features.99.weight"] = torch.zeros(1)
    save_file(state, tmp_path / "net.safetensors")
    words = ["suggest", "torchvision:squeezenet1_1", "--weights", tmp_path / "net.safetensors"]
    error = error_of(capsys, *words)
    assert "1 missing (features.0.bias)" in error
    assert "1 left over (features.99.weight)" in error
    plain = net.state_dict() | BESIDE  # no wrapper: another architecture's, for all one knows
    save_file(plain, tmp_path / "net.safetensors")
    assert "2 left over (criterion.weight, val_metrics.acc.total)" in error_of(capsys, *words)


def test_a_file_that_holds_two_models_is_refused_with_both_names(net, tmp_path, capsys):
    state = {f"model.{k}": v for k, v in net.state_dict().items()}
    state |= {f"ema_model.{k}": v + 1 for k, v in net.state_dict().items()}
    save_file(state, tmp_path / "net.safetensors")
    words = ["suggest", "torchvision:squeezenet1_1", "--weights", tmp_path / "net.safetensors"]
    assert "the model twice, under 'model.' and 'ema_model.'" in error_of(capsys, *words)


ODD = {
    "int64": (lambda t: t.to(torch.int64), "int64 for float32"),
    "bool": (lambda t: t > 0, "bool for float32"),
    "complex": (lambda t: t.to(torch.complex64), "complex64 for float32"),
    "sparse": (lambda t: t.to_sparse(), "sparse"),
    "meta": (lambda t: t.to("meta"), "on the meta device"),
    "int8": (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "quantized to int8"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_no_weights_are_named(kind, net, tmp_path, capsys):
    change, message = ODD[kind]
    state = net.state_dict()
    state["features.0.weight"] = change(state["features.0.weight"])
    torch.save(state, tmp_path / "net.pt")
    words = ["suggest", "torchvision:squeezenet1_1", "--weights", tmp_path / "net.pt"]
    error = error_of(capsys, *words)
    assert f"1 that are no weights (features.0.weight: {message}" in error


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precision_are_taken(dtype, net, tmp_path):
    state = {name: tensor.to(dtype) for name, tensor in net.state_dict().items()}
    save_file(state, tmp_path / "net.safetensors")
    source = model_source("torchvision:squeezenet1_1")
    model = with_weights(source, str(tmp_path / "net.safetensors"), None)
    expected = net.classifier[1].weight.to(dtype).float()
    assert torch.equal(model.classifier[1].weight, expected)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_damaged_weights_are_one_clean_error(name, seed, net, tmp_path):
    path = tmp_path / name
    (torch.save if name.endswith("pt") else save_file)(net.state_dict(), path)
    data = bytearray(path.read_bytes())
    generator = random.Random(seed)
    for _ in range(40):
        data[generator.randrange(min(6000, len(data)))] = generator.randrange(256)
    path.write_bytes(data[: generator.choice([len(data), 3000, 500])])
    try:
        with_weights(model_source("torchvision:squeezenet1_1"), str(path), None)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017  # or the damage is in a number


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


def _exported(net: nn.Module) -> object:
    return torch.export.export(net, (torch.rand(1, 3, 16, 16),))


OPAQUE = {
    "scripted": torch.jit.script,
    "traced": lambda net: torch.jit.trace(net, torch.rand(1, 3, 16, 16)),
    "exported": _exported,
    "exported module": lambda net: _exported(net).module(),
    "wrapped": lambda net: nn.Sequential(torch.jit.script(net), nn.Identity()),
    "int8": lambda net: torch.ao.quantization.quantize_dynamic(net, {nn.Linear}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", OPAQUE)
def test_compiled_graphs_are_refused_by_their_cause(kind, tmp_path, capsys, monkeypatch):
    module = types.ModuleType("opaque_kmex")
    module.made = OPAQUE[kind](_Net().eval())
    module.make = lambda: module.made
    monkeypatch.setitem(sys.modules, "opaque_kmex", module)
    cause = {"exported": "an exported program", "exported module": "an exported program",
             "int8": "an int8 model"}.get(kind, "TorchScript")  # fmt: skip
    for name in ("make", "made"):
        error = error_of(capsys, "suggest", f"opaque_kmex:{name}")
        assert cause in error
        assert "Give the Python model" in error


@pytest.mark.filterwarnings("ignore")
def test_graphs_that_call_layers_are_open():
    graph = torch.fx.symbolic_trace(_Net())
    assert opaque_kind(graph) == opaque_kind(_Net()) == opaque_kind(torch.compile(_Net())) == ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["scripted", "traced", "exported", "onnx"])
def test_files_of_compiled_graphs_are_refused_by_their_cause(kind, tmp_path, capsys):
    path = tmp_path / "net.pt"
    if kind == "onnx":
        path = tmp_path / "net.onnx"
        path.write_bytes(b"\x08\x07")
    elif kind == "exported":
        torch.export.save(_exported(_Net().eval()), path)
    else:
        OPAQUE[kind](_Net().eval()).save(path)
    error = error_of(capsys, "suggest", "torchvision:resnet18", "--weights", path)
    cause = {"exported": "is an exported program", "onnx": "another runtime"}
    assert cause.get(kind, "is a TorchScript program") in error
    assert "Give the Python model" in error
    assert "weights_only=False" not in error
