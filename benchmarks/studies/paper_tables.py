"""Tables 1 and 2 of the paper on your own copy of STL10 or CUB-200.

A ResNet34 is trained as Gautam et al. (2024) train theirs, prototypes are fitted, and both tables
are printed (Boubekki & Clemmensen, 2026). What was done stays done: the same command goes on where
an interruption left off.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.methods.captum_kmex import Columns, KMEx, LayerKMeans
from benchmarks.methods.protopnet import TrainedProtoPNet
from benchmarks.methods.systems.protopnet import Schedule
from benchmarks.page import join, table, versions
from benchmarks.quality.cells import Cell, run_cell
from benchmarks.quality.method import Method
from benchmarks.quality.plugins import find_measures, find_tasks
from benchmarks.quality.presets import Preset
from benchmarks.quality.summary import Estimate, Row, summarise
from benchmarks.quality.task import Task
from benchmarks.tasks.data.resnet34 import resnet34_path, resnet34_recipe
from benchmarks.tasks.data.small_pictures import length
from benchmarks.timing import environment
from benchmarks.training import add_recipe, train_pictures
from captum_kmex.text.counts import counted

__all__ = ["main", "render"]

_RUNS = Path(__file__).parents[1] / "runs" / "paper_tables"
_N_PROTOTYPES = {"stl10": 5, "cub200": 10}  # of a class, as in the paper
_MEASURES = ("alignment", "surrogate")
_NETWORK = "ResNet34"
_QUICK = Schedule(per_class=1, warm=1, joint=1, push_every=1, head=1)


def main(words: Sequence[str]) -> None:
    """Train, fit, and print the tables."""
    options = _options(words)
    variable = f"CAPTUM_KMEX_{options.task.upper()}"
    if options.data is not None:
        os.environ[variable] = str(options.data.absolute())
    seeds = tuple(range(options.seeds))
    preset = Preset("paper_tables", (options.task,), 1, 1, 1, None, None, seeds, 1)
    try:
        _train(options)
        task = find_tasks()[options.task](preset)
    except (FileNotFoundError, ValueError) as error:
        hint = "" if variable in os.environ else "; or pass it with --data"
        raise SystemExit(f"{options.task}: {error}{hint}") from error
    folder = options.folder or _RUNS / options.task
    _check(folder, options)
    cells = list(_cells(task, folder, preset, _methods(options, folder)))
    page = render(summarise(cells, preset.bootstrap), task, _made(task, options))
    (folder / "tables.md").write_text(page + "\n")
    print(page)


def render(rows: Sequence[Row], task: Task, made: str) -> str:
    """Return both tables, Markdown.

    Args:
        rows: What was found, by method and measure.
        task: For its title.
        made: How, in words.
    """
    known = [row for row in rows if row.estimates]
    aligned = {row.method: row.estimates for row in known if row.measure == "alignment"}
    predicted = {row.method: row.estimates for row in known if row.measure == "surrogate"}
    first = [[name, *_cells_of(e, ("class", "out"), 1)] for name, e in aligned.items()]
    second = [
        [name, *_cells_of(e, ("accuracy", "fidelity", "errors"), 100)]
        for name, e in predicted.items()
    ]
    for estimates in list(predicted.values())[:1]:
        itself = "100.0", "100.0" if "errors" in estimates else ""
        second.insert(0, [_NETWORK, *_cells_of(estimates, ("model",), 100), *itself])
    heads = "accuracy ↑", "fidelity ↑", "fidelity on the network's errors"
    return join(
        [
            f"# The paper's tables: {task.title}",
            made,
            "## Table 1: alignment of prototypes",
            table(["prototypes", "class cosine ↑", "out cosine ↓"], first),
            "## Table 2: prediction, in per cent",
            table(["", *heads], second),
            *_failures(rows),
        ]
    )


def _options(words: Sequence[str]) -> argparse.Namespace:
    prog = "python -m benchmarks study paper_tables"
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--task", choices=list(_N_PROTOTYPES), required=True)
    parser.add_argument(
        "--data", type=Path, metavar="DIR",
        help="the folder that holds stl10_binary, or CUB_200_2011 itself",
    )  # fmt: skip
    add_recipe(parser)
    parser.add_argument("--retrain", action="store_true", help="train though a network is kept")
    parser.add_argument("--prototypes", type=int, help="of a class (5, on CUB-200 10)")
    parser.add_argument("--seeds", type=int, default=1, help="fits of each method (1)")
    parser.add_argument("--folder", type=Path, help="where results are kept (benchmarks/runs)")
    parser.add_argument(
        "--quick", action="store_true", help="ProtoPNet of an epoch: to see that all runs"
    )
    options = parser.parse_args(words)
    options.prototypes = options.prototypes or _N_PROTOTYPES[options.task]
    return options


def _train(options: argparse.Namespace) -> None:
    """Train the network, unless one that was trained so is kept."""
    path = resnet34_path(options.task)
    if options.retrain or not path.exists():
        _, accuracy = train_pictures(options.task, options.weights, options.epochs)
        print(f"trained {path}: validation accuracy {accuracy:.4f}")
        return
    recipe = resnet34_recipe(options.task)
    asked = {"weights": options.weights, "epochs": str(options.epochs)}
    if recipe and recipe != asked:
        raise ValueError(
            f"{path} was trained with {_told(recipe)}, not with {_told(asked)}; pass those, or "
            "--retrain"
        )


def _told(recipe: Mapping[str, str]) -> str:
    return " ".join(f"--{name} {recipe[name]}" for name in ("weights", "epochs"))


def _check(folder: Path, options: argparse.Namespace) -> None:
    """Refuse to add to results of another network or other sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    network = hashlib.sha256(resnet34_path(options.task).read_bytes()).hexdigest()
    sizes = {"prototypes": options.prototypes, "quick": options.quick, "network": network}
    path = folder / "made_with.json"
    if path.exists() and json.loads(path.read_text()) != sizes:
        raise SystemExit(
            f"{folder} holds results of another network or of other options; remove it, or pass "
            "another --folder"
        )
    path.write_text(json.dumps(sizes))


def _methods(options: argparse.Namespace, folder: Path) -> dict[str, Callable[[], Method]]:
    """Return what makes the rows: the paper's, ours beside them, and the trained rival."""
    count = options.prototypes
    schedule = _QUICK if options.quick else Schedule(per_class=count)
    methods: dict[str, Callable[[], Method]] = {
        "Classifier prototypes": Columns,
        f"KMEx (K={count})": partial(KMEx, count),
    }
    for settings, about in (
        ({"weighting": "nave", "vote": "share"}, ""),
        ({"weighting": "balanced", "vote": "distance"}, ", this package's weights and vote"),
    ):
        for name, n_layers in {"B4": 1, "B34": 2, "B234": 3}.items():
            methods[f"{name}{about}"] = partial(
                LayerKMeans, n_layers, True, n_prototypes=count, **settings
            )
    methods["ProtoPNet"] = partial(TrainedProtoPNet, schedule, folder, math.inf)
    return methods


def _cells(
    task: Task, folder: Path, preset: Preset, methods: Mapping[str, Callable[[], Method]]
) -> Iterator[Cell]:
    """Run what the folder lacks."""
    sample = task.sample("test", preset.n_images)
    measures = {name: find_measures()[name] for name in _MEASURES}
    for number, (method, make) in enumerate(methods.items()):
        for seed in preset.seeds if make().seeded else preset.seeds[:1]:
            path = folder / f"{number}--{seed}.cell.json"
            cell = Cell.load(path) if path.exists() else Cell(task.name, method, seed)
            if cell.lacks(measures):
                print(f"{task.name}: {method}, seed {seed}", flush=True)
                run_cell(cell, path, make, task, sample, preset, measures)
            yield cell


def _cells_of(
    estimates: Mapping[str, Estimate], keys: Sequence[str], scale: float
) -> Iterator[str]:
    digits = 1 if scale > 1 else 3
    for key in keys:
        found = estimates.get(key)
        if found is None:
            yield ""
            continue
        mean, low, high = (f"{scale * x:.{digits}f}" for x in (found.mean, found.low, found.high))
        yield mean if low == high else f"{mean} ({low} to {high})"


def _made(task: Task, options: argparse.Namespace) -> str:
    """Say how the numbers were made."""
    recipe = resnet34_recipe(task.name)
    trained = f"trained with {_told(recipe)}" if recipe else "trained before"
    images = [counted(length(data), "image") for data in (task.train, task.test) if data]
    quick = "; ProtoPNet was trained for one epoch alone, to see that all runs"
    return (
        f"{_NETWORK}, {trained}; prototypes of {images[0]}, {options.prototypes} a class, scored "
        f"on {images[-1]}; {counted(options.seeds, 'seed')}; in brackets 95 % bootstrap intervals"
        f"{quick if options.quick else ''}. {versions(environment())}."
    )


def _failures(rows: Sequence[Row]) -> Iterator[str]:
    expected = {"is no surrogate classifier"}
    for row in rows:
        if not row.estimates and row.reason not in expected:
            yield f"{row.method} is not in the table of {row.measure}: {row.reason}"
