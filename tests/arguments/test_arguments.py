"""Every argument of every public callable with values of every wrong kind."""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import inspect
import io
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from nets import SmallNet, make_net
from torch import nn

import captum_kmex
from captum_kmex import (
    ClassifierPrototypes,
    KMExAttribution,
    LayerKMeansAttribution,
    Measured,
    PrototypeBank,
)
from captum_kmex.arguments import OPTIONS, option_of, read_option
from captum_kmex.cli.options import add_option, byte_count
from captum_kmex.composite.weighting import block_weights
from captum_kmex.metrics.embedding import pooled_embeddings
from captum_kmex.metrics.wins import prototype_wins

PACKAGE = str(Path(captum_kmex.__file__).parent)
MODULES = (
    "captum_kmex",
    "captum_kmex.bank.prototype_bank",
    "captum_kmex.concepts",
    "captum_kmex.metrics.embedding",
    "captum_kmex.model.layer_suggestion",
    "captum_kmex.metrics.surrogate_scores",
    "captum_kmex.report",
    "captum_kmex.visualization",
    "captum_kmex.metrics.wins",
)


_LONGEST = 1000  # characters of a message
_SECONDS = 5.0  # of the processor for one call


def _numbers() -> Iterator[int]:
    yield from (0, 1)


WRONG: dict[str, Callable[[], object]] = {
    "None": lambda: None,
    "empty": lambda: "",
    "text": lambda: "x\0y",
    "word": lambda: "x",
    "bytes": lambda: b"x",
    "minus": lambda: -1,
    "zero": lambda: 0,
    "part": lambda: 1.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "huge": lambda: 10**30,
    "longest": lambda: 10**5000,
    "true": lambda: True,
    "list": list,
    "dict": dict,
    "mixed": lambda: [1, "x", None],
    "repeated": lambda: [0, 0],
    "negatives": lambda: [-1],
    "strings": lambda: ["a", "b"],
    "nested": lambda: [[1], (2, 3)],
    "mapping": lambda: {"a": -1},
    "set": lambda: {1, 2},
    "object": object,
    "array": lambda: np.array([]),
    "floats": lambda: np.array([[0.5, np.nan]]),
    "tensor": lambda: torch.tensor([float("nan")]),
    "complex": lambda: torch.zeros(2, 2, dtype=torch.complex64),
    "meta": lambda: torch.zeros(1, 1, 16, 16, device="meta"),
    "generator": _numbers,
    "class": lambda: SmallNet,
    "module": lambda: nn.Conv2d(1, 1, 1),
    "function": lambda: _numbers,
}


# pictures take long: where another callable draws the same panels, a few values do
REPEATED = {"plot_contrast", "plot_comparison", "plot_depths", "Explanation.plot"}
REPEATED |= {"Explanation.save"}
SOME = ("word", "huge", "list", "object", "generator", "meta")

# an argument's name in prose, and what stands for it in a message
SAID = {"loader": "loader|DataLoader|batch", "dataset": "dataset|data set"}
SAID |= {"images": "images|data set"}


@dataclass(frozen=True)
class Case:
    """A callable and arguments that it takes."""

    call: Callable[..., object]
    good: dict[str, object]


COMMANDS = (
    "batch_size",
    "epochs",
    "limit",
    "memory_budget",
    "n_clusters",
    "n_prototypes",
    "num_classes",
    "refine",
    "seed",
    "workers",
)
# have no wrong values: they take anything, or are made by the package only
FREE = {"of", "after"}


class World:
    """Small objects of every class, made once."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.folder, self.net = folder, make_net()
        self.x, self.y = torch.rand(6, 1, 16, 16), torch.arange(6) % 3
        self.loader = [(self.x, self.y)]
        self.data = list(self.x)
        options = {"n_init": 1, "n_representatives": 1}
        self.kmeans = LayerKMeansAttribution(self.net, ["stage2", "stage3"], n_prototypes=1)
        self.kmex = KMExAttribution(self.net, "stage3", n_prototypes=1)
        self.columns = ClassifierPrototypes(self.net)
        self.kmeans.fit(self.loader, **options)
        self.kmex.fit(self.loader, **options)
        for name, fitted in {"kmeans": self.kmeans, "kmex": self.kmex}.items():
            fitted.save(folder / name)
        self.result = self.kmeans.explain(self.x[:2], target=1)
        self.other = self.kmeans.explain(self.x[:2], target=0)
        self.measured = self.kmeans.explain(self.x[:2], evidence="measured")
        self.wins = prototype_wins(self.kmeans, self.loader)
        self.maps = self.result.attribution
        self.shown = self.x[0, 0].double().numpy()
        self.drawn = Figure().add_subplot().imshow(self.shown, vmin=-1, vmax=1)

        self.ax = Figure().add_subplot()


def _attributions(w: World) -> dict[str, Case]:
    call = {"inputs": w.x[:2], "target": 1}
    fit = {"loader": w.loader, "n_init": 1, "n_representatives": 0}
    cases = {
        "ClassifierPrototypes": Case(ClassifierPrototypes, {"model": w.net}),
        "KMExAttribution": Case(KMExAttribution, {"model": w.net}),
        "LayerKMeansAttribution": Case(
            LayerKMeansAttribution, {"model": w.net, "layers": ["stage3"]}
        ),
    }
    for own in (w.columns, w.kmex, w.kmeans):
        of = type(own).__name__
        maps = own.attribute(w.x[:2], 1)
        delta = {"attributions": maps, **call}
        cases |= {
            f"{of}.attribute": Case(own.attribute, call),
            f"{of}.compute_convergence_delta": Case(own.compute_convergence_delta, delta),
            f"{of}.as_module": Case(own.as_module, call),
            f"{of}.read": Case(own.read, {"inputs": w.x[:2]}),
            f"{of}.logits": Case(own.logits, {"inputs": w.x[:2]}),
        }
    for own in (w.kmex, w.kmeans):
        of, fresh = type(own).__name__, type(own)(w.net, "stage3", n_prototypes=1)
        load = {"path": w.folder / ("kmex" if own is w.kmex else "kmeans"), "model": w.net}
        cases |= {
            f"{of}.fit": Case(fresh.fit, fit),
            f"{of}.save": Case(own.save, {"path": w.folder / "saved"}),
            f"{of}.load": Case(type(own).load, load),
            f"{of}.from_bank": Case(type(own).from_bank, {"bank": own.bank_, "model": w.net}),
            f"{of}.classify": Case(own.classify, {"inputs": w.x[:2]}),
            f"{of}.predict": Case(own.predict, {"inputs": w.x[:2]}),
            f"{of}.to_concepts": Case(own.to_concepts, {"dataset": w.data}),
        }
    return cases | {
        "KMExAttribution.similarity": Case(w.kmex.similarity, {"inputs": w.x[:2]}),
        "KMExAttribution.alignment": Case(w.kmex.alignment, {"loader": w.loader}),
        "ClassifierPrototypes.alignment": Case(w.columns.alignment, {"loader": w.loader}),
        "LayerKMeansAttribution.explain": Case(w.kmeans.explain, call),
        "LayerKMeansAttribution.explain_targets": Case(
            w.kmeans.explain_targets, {"inputs": w.x[:2], "targets": [1, 0]}
        ),
        "Measured": Case(Measured, {"at": "input"}),
        "LayerKMeansAttribution.segment": Case(w.kmeans.segment, call),
        "LayerKMeansAttribution.feature_mask": Case(w.kmeans.feature_mask, call),
    }


def _functions(w: World) -> dict[str, Case]:
    bank, example = w.kmeans.bank_, {"model": w.net, "example": w.x}
    report = {"attribution": w.kmeans, "images": w.data, "path": w.folder / "report.html"}
    found = {
        "suggest_layers": example,
        "load_model": {"name": "torchvision.models:squeezenet1_1"},
        "candidate_layers": example,
        "surrogate_scores": {"attribution": w.kmeans, "loader": w.loader},
        "sensitivity_max": {"attribution": w.columns, "inputs": w.x[:1], "n_perturb_samples": 1},
        "prototype_wins": {"attribution": w.kmeans, "loader": w.loader},
        "pooled_embeddings": {"attribution": w.kmex, "loader": w.loader},
        "write_report": {**report, "show_progress": False},
        "to_concepts": {"bank": bank, "dataset": w.data, "prototypes": [0]},
        "random_concept": {"dataset": w.data, "count": 1},
        "image_of": {"dataset": w.data, "index": 0},
        "crop_box": {"box": [0, 0, 4, 4], "size": (16, 16)},
    }
    return {name: Case(_public(name), good) for name, good in found.items()} | {
        "block_weights": Case(block_weights, {"weighting": "nave", "widths": [4, 8]}),
        "PrototypeBank.save": Case(bank.save, {"path": w.folder / "bank"}),
        "PrototypeBank.load": Case(PrototypeBank.load, {"path": w.folder / "kmex"}),
        "PrototypeBank.check_model": Case(bank.check_model, {"model": w.net}),
        "PrototypeBank.depth": Case(bank.depth, {"depth": 0}),
        "Codebook.of_class": Case(bank.codebooks[0].of_class, {"c": 0}),
        "ModelFingerprint.of": Case(captum_kmex.bank.ModelFingerprint.of, {"model": w.net}),
    }


def _figures(w: World) -> dict[str, Case]:
    result, rows = w.result, w.result.ledger[0]
    grid = result.segments[0].numpy()
    patch = {"patch": rows[0].representatives[0], "dataset": w.data, "color": "red", "ax": w.ax}
    one, canvas = {"explanations": [result]}, {"figure": Figure()}
    embedded = pooled_embeddings(w.kmex, w.loader)
    found: dict[str, dict[str, object]] = {
        "density": {"maps": w.maps[0]},
        "evidence_scale": {"maps": list(w.maps)},
        "picture": {"image": w.x[0]},
        "draw_picture": {"image": w.shown, "ax": w.ax},
        "draw_patch": patch,
        "draw_crop": patch,
        "draw_map": {"values": np.ones((4, 4)), "image": w.shown, "ax": w.ax, "scale": 1.0},
        "draw_scale": {"drawn": w.drawn},
        "draw_segments": {"segments": grid, "rows": rows, "image": w.shown, "ax": w.ax},
        "draw_ledger": {"rows": rows, "bias": 0.0, "output": 1.0, "ax": w.ax},
        "segment_color": {"rank": 0},
        "segment_colors": {"segments": grid, "order": [row.segment for row in rows]},
        "prototype_handles": {"names": ["a", "b"]},
        "plot_explanation": {"explanation": result, **canvas},
        "plot_contrast": {"target": result, "contrast": w.other, **canvas},
        "plot_comparison": {**one, "names": ["a"], "indices": [0], **canvas},
        "plot_depths": {**one, **canvas},
        "plot_methods": {"images": w.x[:2], "maps": {"a": w.maps}, **canvas},
        "plot_confusions": {"wins": w.wins, **canvas},
        "plot_prototypes": {"source": w.kmeans, "dataset": w.data, "class_index": 0, **canvas},
        "plot_embeddings": {"rows": embedded[0], "labels": embedded[1], "ax": w.ax},
        "visualize_image_attr": {"maps": w.maps, "images": w.x[:2]},
    }
    return {name: Case(_public(name), good) for name, good in found.items()} | {
        "Explanation.plot": Case(result.plot, canvas),
        "Explanation.overlay": Case(result.overlay, {}),
        "Explanation.ledger_table": Case(result.ledger_table, {}),
        "Explanation.named": Case(result.named, {"class_names": ["a", "b", "c"]}),
        "Explanation.save": Case(result.save, {"folder": w.folder / "explained"}),
        "Explanation.sufficient": Case(w.measured.sufficient, {"index": 0}),
        "Explanation.necessary": Case(w.measured.necessary, {"index": 0}),
    }


def _public(name: str) -> Callable[..., object]:
    for module in map(importlib.import_module, MODULES):
        if hasattr(module, name):
            found: Callable[..., object] = getattr(module, name)
            return found
    raise LookupError(name)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def cases(world) -> dict[str, Case]:
    return _attributions(world) | _functions(world) | _figures(world)


def fault_of(case: Case, name: str, value: object) -> str:
    """Return what is wrong with the answer to a wrong value; nothing where it is taken."""
    try:
        case.call(**(case.good | {name: value}))
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if not isinstance(error, (TypeError, ValueError, OSError, captum_kmex.NotFittedError)):
            return f"raises {type(error).__name__}: {error}"
        if not frame.filename.startswith(PACKAGE) or not frame.line.startswith("raise "):
            return f"lets {type(error).__name__} of {frame.filename} through: {error}"
        if not re.search(rf"\b({SAID.get(name, name)})", str(error), re.IGNORECASE):
            return f"does not name it: {type(error).__name__}: {error}"
        if len(str(error)) > _LONGEST:
            return f"says too much: {len(str(error))} characters"
    return ""


def faults(name: str, case: Case) -> Iterator[str]:
    for argument, parameter in inspect.signature(case.call).parameters.items():
        if parameter.kind == parameter.VAR_KEYWORD:
            continue
        is_drawn = name in REPEATED and argument in ("dataset", "class_names", "image")
        for kind in SOME if is_drawn else WRONG:
            if "figure" in case.good:
                case.good["figure"] = Figure()  # the last one is full
            start = time.process_time()
            fault = fault_of(case, argument, WRONG[kind]())
            spent = time.process_time() - start
            if fault or spent > _SECONDS:
                yield f"{name}({argument}={kind}), {spent:.1f} s: {fault}"


@pytest.mark.parametrize(
    "part", [_attributions, _functions, pytest.param(_figures, marks=pytest.mark.slow)]
)
@pytest.mark.filterwarnings("ignore")
def test_wrong_value_works_or_is_refused_by_name(part, world, monkeypatch):
    monkeypatch.chdir(world.folder)  # "x" is a path
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: Path(path).touch())
    found: list[str] = []
    for name, case in part(world).items():
        case.call(**case.good)
        with contextlib.redirect_stderr(io.StringIO()):
            found += faults(name, case)
        plt.close("all")
    assert not found, "\n".join(found)


def test_every_public_callable_is_walked(cases):
    walked = {name.rpartition(".")[2] for name in cases}
    assert not {name for name in public_callables() if name not in walked | FREE}


def public_callables() -> Iterator[str]:
    """Yield public functions, and public methods of public classes, that take arguments."""
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.isfunction(found):
                yield name
            elif inspect.isclass(found) and found.__module__.startswith("captum_kmex"):
                yield from _methods(found)


def _methods(kind: type) -> Iterator[str]:
    for name, _ in inspect.getmembers(kind, callable):
        found = getattr(kind, name)
        is_ours = str(getattr(found, "__module__", "")).startswith("captum_kmex")
        if name.startswith("_") or not is_ours or inspect.isclass(found):
            continue
        if len(inspect.signature(found).parameters) > (not inspect.ismethod(found)):
            yield name


# ---------------------------------------------------------------- settings


def word(value: object) -> str:
    """Name a case alike in every process: no addresses, no random weights."""
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, dict) and "model" in value:
        return f"model is a {type(value['model']).__name__}"
    return "generator" if inspect.isgenerator(value) else str(value)


@pytest.mark.parametrize("use", ["attribute", "explain", "segment", "classify", "predict", "fit"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_clusters", "x"),
        ("n_clusters", 0),
        ("n_clusters", 10**30),
        ("n_clusters", True),
        ("n_prototypes", {0: 1.5}),
        ("n_prototypes", {}),
        ("n_prototypes", 2.0),
        ("weighting", [1.0, float("nan")]),
        ("weighting", {1.0, 2.0}),
        ("weighting", b"nave"),
        ("average_top", 1),
        ("vote", None),
        ("seed", -(2**63) - 1),
        ("seed", 2**63),
        ("layers", 3),
        ("layers", []),
        ("layers", {"stage3"}),
        ("layers", (name for name in ["stage3"])),
    ],
    ids=word,
)
def test_setting_is_checked_at_use_whenever_it_was_set(world, name, value, use):
    attribution = copy.copy(world.kmeans)
    setattr(attribution, name, value)
    given = world.loader if use == "fit" else world.x
    with pytest.raises((TypeError, ValueError), match=rf"^{name}s?\b"):
        getattr(attribution, use)(given)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (LayerKMeansAttribution, {"n_clusters": "x"}),
        (LayerKMeansAttribution, {"weighting": [1, -1]}),
        (LayerKMeansAttribution, {"average_top": 1}),
        (LayerKMeansAttribution, {"vote": "loudest"}),
        (KMExAttribution, {"n_prototypes": {0: True}}),
        (KMExAttribution, {"n_prototypes": {0.5: 1}}),
        (KMExAttribution, {"seed": 1.5}),
        (KMExAttribution, {"seed": None}),
        (ClassifierPrototypes, {"model": SmallNet}),
        (ClassifierPrototypes, {"model": SmallNet().state_dict()}),
        (ClassifierPrototypes, {"model": "resnet18"}),
        (ClassifierPrototypes, {"model": None}),
    ],
    ids=word,
)
def test_constructor_refuses_a_wrong_value_at_once(kind, options):
    given = {"model": make_net(), "layers": "stage3"} | options
    if kind is not LayerKMeansAttribution:
        del given["layers"]
    with pytest.raises((TypeError, ValueError), match=rf"^{next(iter(options))}\b"):
        kind(**given)


@pytest.mark.parametrize("name", ["layer", "head"])
@pytest.mark.parametrize(
    "value", [3, ["stage3"], b"stage3", object()], ids=lambda v: type(v).__name__
)
def test_part_of_the_model_is_checked_at_use(images, name, value):
    attribution = ClassifierPrototypes(make_net(), **{name: value})
    with pytest.raises(TypeError, match="layer"):
        attribution.attribute(images)


@pytest.mark.parametrize(
    ("value", "plain"),
    [(np.int64(3), 3), (torch.tensor(3), 3), (np.array(3, dtype=np.uint8), 3)],
    ids=["numpy", "tensor", "array"],
)
def test_numbers_of_other_libraries_become_plain(value, plain):
    for name in ("n_clusters", "n_prototypes", "seed", "refine", "batch_size"):
        found = read_option(name, value)
        assert found == plain
        assert type(found) is int
    assert type(read_option("checkpoint_interval", value)) is float


@pytest.mark.parametrize(
    ("name", "most"),
    [("refine", 1000), ("max_iter", 100_000), ("n_init", 1000), ("n_representatives", 1000)],
)
def test_work_has_a_documented_end(world, name, most):
    fresh = KMExAttribution(world.net, n_prototypes=1)
    assert read_option(name, most) == most
    with pytest.raises(ValueError, match=rf"{name}=.* should be between . and {most:,}"):
        fresh.fit(world.loader, **{name: most + 1})


def test_defaults_of_the_signatures_are_those_of_the_table(cases):
    for name, case in cases.items():
        for argument, parameter in inspect.signature(case.call).parameters.items():
            option = option_of(argument, case.call.__qualname__)
            if option is not None and parameter.default is not parameter.empty:
                assert parameter.default == option.default, f"{name}({argument})"


def test_every_entry_of_the_table_belongs_to_a_callable(cases):
    words = set(COMMANDS)
    for case in cases.values():
        owner = case.call.__qualname__.removesuffix(".__init__")
        for argument in inspect.signature(case.call).parameters:
            own = f"{owner}.{argument}"
            words.add(own if own in OPTIONS else argument)
    assert not set(OPTIONS) - words


def test_commands_have_ranges_and_defaults_of_the_table():
    parser = argparse.ArgumentParser(exit_on_error=False)
    for name in COMMANDS:
        add_option(parser, name, "N", "")
    assert vars(parser.parse_args([])) == {name: OPTIONS[name].default for name in COMMANDS}
    for name in COMMANDS:
        for word in (str(-(10**30)), str(10**30), "1.5", "x"):
            with pytest.raises(argparse.ArgumentError, match=f"{name}=|is not a whole number"):
                parser.parse_args([f"--{name.replace('_', '-')}={word}"])


@pytest.mark.parametrize("word", ["0", "1e400GiB", "-1GiB", "nanGiB", "2**31", ""])
def test_memory_budget_of_no_size_is_refused_by_the_command(word):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_option(parser, "memory_budget", "BYTES", "", byte_count)
    with pytest.raises(argparse.ArgumentError, match=r"memory_budget=|no number of bytes"):
        parser.parse_args([f"--memory-budget={word}"])


# ---------------------------------------------------------------- arguments of the model


class Scaled(SmallNet):
    def forward(self, x, scale, shift=0.0):
        return super().forward(x) * scale + shift


@pytest.mark.parametrize(
    ("net", "extra"),
    [(SmallNet(), 2.0), (SmallNet(), (None, 1)), (Scaled(), None), (Scaled(), (1.0, 2.0, 3.0))],
    ids=["one", "two", "missing", "many"],
)
def test_number_of_forward_arguments_is_checked(net, extra, images):
    message = r"additional_forward_args should fit \w+\.forward\(.*Pass the others"
    with pytest.raises(TypeError, match=message):
        ClassifierPrototypes(net.eval()).attribute(images, additional_forward_args=extra)


def test_hook_may_supply_the_arguments_of_forward(images):
    net = Scaled().eval()
    net.register_forward_pre_hook(lambda _, given: (*given, 2.0))
    assert LayerKMeansAttribution(net, "stage1").segment(images).shape == (12, 16, 16)


@pytest.mark.parametrize("name", ["columns", "kmex", "kmeans"])
def test_module_is_made_of_inputs_in_a_tuple(world, name):
    attribution = getattr(world, name)
    expected = attribution.as_module(world.x)(world.x)["attribution"]
    assert torch.equal(attribution.as_module((world.x,))(world.x)["attribution"], expected)
