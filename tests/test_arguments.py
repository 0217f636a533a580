"""Every argument of every public callable with values of every wrong kind."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import SmallNet, make_net
from matplotlib.figure import Figure
from torch import nn

import captum_kmex
from captum_kmex import (
    ClassifierPrototypes,
    Explanation,
    KMExAttribution,
    LayerKMeansAttribution,
    PrototypeBank,
)
from captum_kmex.embedding import pooled_embeddings
from captum_kmex.wins import prototype_wins

PACKAGE = str(Path(captum_kmex.__file__).parent)
MODULES = (
    "captum_kmex",
    "captum_kmex.bank",
    "captum_kmex.concepts",
    "captum_kmex.embedding",
    "captum_kmex.layer_suggestion",
    "captum_kmex.metrics",
    "captum_kmex.report",
    "captum_kmex.visualization",
    "captum_kmex.wins",
)


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


# an argument's name in prose, and what stands for it in a message
SAID = {"loader": "loader|DataLoader|batch", "dataset": "dataset|data set"}


@dataclass(frozen=True)
class Case:
    """A callable and arguments that it takes."""

    call: Callable[..., object]
    good: dict[str, object]


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
        self.wins = prototype_wins(self.kmeans, self.loader)
        self.maps = self.result.attribution
        self.figure = Figure()
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
        }
    for own in (w.kmex, w.kmeans):
        of, fresh = type(own).__name__, type(own)(w.net, "stage3", n_prototypes=1)
        load = {"path": w.folder / ("kmex" if own is w.kmex else "kmeans"), "model": w.net}
        cases |= {
            f"{of}.fit": Case(fresh.fit, fit),
            f"{of}.save": Case(own.save, {"path": w.folder / "saved"}),
            f"{of}.load": Case(type(own).load, load),
            f"{of}.classify": Case(own.classify, {"inputs": w.x[:2]}),
            f"{of}.predict": Case(own.predict, {"inputs": w.x[:2]}),
            f"{of}.to_concepts": Case(own.to_concepts, {"dataset": w.data}),
        }
    return cases | {
        "KMExAttribution.similarity": Case(w.kmex.similarity, {"inputs": w.x[:2]}),
        "KMExAttribution.alignment": Case(w.kmex.alignment, {"loader": w.loader}),
        "ClassifierPrototypes.alignment": Case(w.columns.alignment, {"loader": w.loader}),
        "LayerKMeansAttribution.explain": Case(w.kmeans.explain, call),
        "LayerKMeansAttribution.segment": Case(w.kmeans.segment, call),
    }


def _functions(w: World) -> dict[str, Case]:
    bank, example = w.kmeans.bank_, {"model": w.net, "example": w.x}
    report = {"attribution": w.kmeans, "images": w.data, "path": w.folder / "report.html"}
    found = {
        "suggest_layers": example,
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
        "PrototypeBank.save": Case(bank.save, {"path": w.folder / "bank"}),
        "PrototypeBank.load": Case(PrototypeBank.load, {"path": w.folder / "kmex"}),
        "PrototypeBank.check_model": Case(bank.check_model, {"model": w.net}),
        "Codebook.of_class": Case(bank.codebooks[0].of_class, {"c": 0}),
        "ModelFingerprint.of": Case(captum_kmex.bank.ModelFingerprint.of, {"model": w.net}),
    }


def _figures(w: World) -> dict[str, Case]:
    result, rows = w.result, w.result.ledger[0]
    grid = result.segments[0].numpy()
    patch = {"patch": rows[0].representatives[0], "dataset": w.data, "color": "red", "ax": w.ax}
    one, canvas = {"explanations": [result]}, {"figure": w.figure}
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
        "Explanation.save": Case(result.save, {"folder": w.folder / "explained"}),
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
        if not frame.filename.startswith(PACKAGE):
            return f"{type(error).__name__} of {frame.filename}:{frame.lineno}: {error}"
        if not isinstance(error, (TypeError, ValueError, OSError, captum_kmex.NotFittedError)):
            return f"raises {type(error).__name__}: {error}"
        if not frame.line.startswith("raise "):
            return f"lets {type(error).__name__} through: {error}"
        if not re.search(rf"\b({SAID.get(name, name)})", str(error), re.IGNORECASE):
            return f"does not name it: {type(error).__name__}: {error}"
    return ""


def faults(name: str, case: Case) -> Iterator[str]:
    for argument, parameter in inspect.signature(case.call).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        for kind, make in WRONG.items():
            fault = fault_of(case, argument, make())
            if fault:
                yield f"{name}({argument}={kind}): {fault}"


if __name__ == "__main__":
    import sys, tempfile, time
    warnings.simplefilter("ignore")
    w = World(Path(tempfile.mkdtemp()))
    for name, case in (_attributions(w) | _functions(w) | _figures(w)).items():
        t = time.process_time()
        try:
            case.call(**case.good)
        except Exception as e:
            print("BAD GOOD", name, repr(e)[:300]); continue
        with contextlib.redirect_stderr(io.StringIO()):
            fs = list(faults(name, case))
        t = time.process_time() - t
        if t > .5: print(f"   {name} {t:.1f}s")
        for f in fs: print(f[:330])
        plt.close("all")
        sys.stdout.flush()
