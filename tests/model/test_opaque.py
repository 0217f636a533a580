"""Graphs and compiled models are refused with their kind; what keeps its modules works."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from nets import LAYERS, make_net
from torch import Tensor, nn

from captum_kmex import (
    ClassifierPrototypes,
    KMExAttribution,
    LayerKMeansAttribution,
    suggest_layers,
)


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x - self.mean)


class Stubbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.net = torch.ao.quantization.QuantStub(), make_net()
        self.dequant = torch.ao.quantization.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.net(self.quant(x)))


def int8(x: Tensor) -> nn.Module:
    model = Stubbed().eval()
    model.qconfig = torch.ao.quantization.get_default_qconfig()
    prepared = torch.ao.quantization.prepare(model)
    prepared(x)
    return torch.ao.quantization.convert(prepared)


class InferenceSession:
    """As ONNX Runtime's is."""

    __module__ = "onnxruntime.capi.onnxruntime_inference_collection"


X = torch.rand(2, 1, 16, 16)
TORCHSCRIPT, BARE = r"TorchScript \(torch.jit\)", "a graph of bare operations"
OPAQUE = {
    "script": (lambda: torch.jit.script(make_net()), TORCHSCRIPT),
    "trace": (lambda: torch.jit.trace(make_net(), X), TORCHSCRIPT),
    "frozen": (lambda: torch.jit.freeze(torch.jit.script(make_net())), TORCHSCRIPT),
    "data_parallel": (lambda: nn.DataParallel(torch.jit.trace(make_net(), X)), TORCHSCRIPT),
    "wrapped": (lambda: Wrapped(torch.jit.trace(make_net(), X)), f"whose 'inner' is {TORCHSCRIPT}"),
    "sequence": (
        lambda: nn.Sequential(nn.Identity(), Wrapped(torch.jit.script(make_net()))),
        f"whose '1.inner' is {TORCHSCRIPT}",
    ),
    "function": (lambda: torch.jit.trace(make_net().forward, X), "TopLevelTracedModule|TorchScr"),
    "program": (lambda: torch.export.export(make_net(), (X,)), "an exported program"),
    "program_module": (lambda: torch.export.export(make_net(), (X,)).module(), BARE),
    "wrapped_program": (
        lambda: Wrapped(torch.export.export(make_net(), (X,)).module()),
        f"whose 'inner' is {BARE}",
    ),
    "session": (InferenceSession, "a session of ONNX Runtime.*InferenceSession"),
    "text": (lambda: "resnet18", "got str"),
}
if "x86" in torch.backends.quantized.supported_engines:
    OPAQUE["int8"] = (lambda: int8(X), "the model is quantized")
ASKED = {
    "head": lambda model: ClassifierPrototypes(model).attribute(X),
    "kmex": lambda model: KMExAttribution(model).fit([(X, [0, 1])]),
    "layers": lambda model: LayerKMeansAttribution(model, "net.stage1").segment(X),
    "fit": lambda model: LayerKMeansAttribution(model, "net.stage1").fit([X], labels=None),
    "prepare": lambda model: ClassifierPrototypes(model).prepare().attribute(X),
    "suggest": lambda model: suggest_layers(model, X),
}


@functools.cache  # a refused model is as it was
def made(make: Callable[[], object]) -> object:
    return make()


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize(("make", "kind"), OPAQUE.values(), ids=OPAQUE)
def test_opaque_models_are_refused_by_their_kind(make, kind, ask):
    model = made(make)
    with pytest.raises(TypeError, match=f"{kind}.*[Pp]ass the Python model") as caught:
        ask(model)
    assert "torch.nn.Module" in str(caught.value) or "floating point" in str(caught.value)


def backbone() -> nn.Module:
    return nn.Sequential(make_net().stage1, make_net().stage2).eval()


def with_head(module: nn.Module) -> nn.Module:
    return nn.Sequential(module, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


CLEAR = {
    "traced_by_fx": lambda: torch.fx.symbolic_trace(make_net()),
    "compiled": lambda: torch.compile(make_net()),
    "traced_backbone": lambda: with_head(torch.jit.trace(backbone(), X)),
}


@pytest.mark.parametrize("make", CLEAR.values(), ids=CLEAR)
def test_models_that_keep_their_modules_are_explained(make):
    model = make()
    maps, delta = ClassifierPrototypes(model).attribute(X, return_convergence_delta=True)
    assert maps[0].numel() > 1
    assert delta.abs().max() < 1e-4


def test_a_scripted_part_is_named():
    model = with_head(torch.jit.script(backbone()))
    for ask in (ClassifierPrototypes(model).attribute, LayerKMeansAttribution(model, "0").segment):
        with pytest.raises(TypeError, match=f"'0' is {TORCHSCRIPT}.*[Pp]ass the Python model"):
            ask(X)


def test_dynamically_quantized_heads_leave_the_layers_readable():
    model = torch.ao.quantization.quantize_dynamic(make_net(), {nn.Linear})
    assert suggest_layers(model, X) == LAYERS
    attr = LayerKMeansAttribution(model, LAYERS, n_prototypes=1).fit([X], labels=None)
    assert attr.explain(X).surrogate_r2 is not None
