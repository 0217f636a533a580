"""Which vote makes the fitted prototypes classify as the network does, and what unsettles them.

Run as ``python -m benchmarks.surrogate_study``. All choices are made on validation images; the
last table, of what was chosen, is on test images. Writes ``results/ablation-surrogate.json`` and
prints the tables.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.evaluation.cells import Cell
from benchmarks.evaluation.summary import summarise
from benchmarks.surrogate.features import DEPTHS, Features, hits
from benchmarks.surrogate.page import render
from benchmarks.surrogate.seeds import N_AGREED, agreement, study_seeds
from benchmarks.surrogate.votes import WEIGHTINGS, study_votes
from benchmarks.tasks._small import load_small_resnet
from captum_kmex import LayerKMeansAttribution
from captum_kmex.demo import DIGIT_LAYERS, SmallResNet

TASKS = ("mnist", "fashion_mnist", "parts")
_RESULTS = Path(__file__).parent / "results" / "ablation-surrogate.json"


def _network(task: str, train: TensorDataset) -> SmallResNet:
    images, labels = train.tensors
    return load_small_resnet(task, images.shape[1], int(labels.max()) + 1)


def confirm(
    task: str, model: SmallResNet, train: TensorDataset, test: TensorDataset, n_seeds: int
) -> tuple[list[Cell], list[dict[str, object]]]:
    """Score what ``fit`` gives by both of its votes on test images, for each weighting and seed."""
    images, labels = test.tensors
    with torch.no_grad():
        predicted = torch.cat([model(part).argmax(1) for part in images.split(200)])
    truth = Features((), labels, predicted)
    cells, agreements = [Cell(task, "network", 0)], []
    cells[0].scores["test"] = hits(predicted, truth)
    for weighting in WEIGHTINGS[:2]:
        segments: dict[str, list[Tensor]] = {name: [] for name in DEPTHS}
        for seed in range(n_seeds):
            attr = LayerKMeansAttribution(model, DIGIT_LAYERS, weighting=weighting, seed=seed)
            attr.fit(DataLoader(train, 200), n_representatives=0)
            for name, depth in DEPTHS.items():
                for attr.vote in ("share", "distance"):
                    found = [attr.predict(part, depth=depth) for part in images.split(200)]
                    cell = Cell(task, f"{name}, {weighting}|{attr.vote}", seed)
                    cell.scores["test"] = hits(torch.cat(found), truth)
                    cells.append(cell)
                segments[name].append(attr.segment(images[:N_AGREED], depth=depth).flatten(1))
        agreements += [
            {"task": task, "method": f"{name}, {weighting}", **agreement(maps, 5)}
            for name, maps in segments.items()
        ]
    return cells, agreements


def main() -> None:
    """Run the study and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.surrogate_study")
    parser.add_argument("--task", action="append", choices=TASKS)
    parser.add_argument("--n-train", type=int, default=5000, help="images of the two ablations")
    parser.add_argument("--n-fit", type=int, default=55_000, help="images of the last table's fits")
    parser.add_argument("--n-validation", type=int, default=2500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=_RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    votes: list[Cell] = []
    tests: list[Cell] = []
    seeds: list[dict[str, object]] = []
    fits: list[dict[str, object]] = []
    for task in options.task or TASKS:
        data = import_module(f"benchmarks.tasks.{task}").load_data()
        model = _network(task, data.train)
        train = Features.of(model, data.train, options.n_train)
        held = Features.of(model, data.validation, options.n_validation)
        votes += study_votes(task, train, held)
        seeds += study_seeds(task, train, held, options.seeds)
        fitted = TensorDataset(*(x[: options.n_fit] for x in data.train.tensors))
        cells, agreements = confirm(task, model, fitted, data.test, options.seeds)
        tests, fits = tests + cells, fits + agreements
    found = {"vote": summarise(votes, 1000), "test": summarise(tests, 1000)}
    kept = {name: [asdict(row) for row in rows] for name, rows in found.items()}
    arguments = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    arguments.pop("results")
    everything = {"arguments": arguments, **kept, "seeds": seeds, "fits": fits}
    options.results.write_text(json.dumps(everything, indent=1) + "\n")
    print(render(found, seeds, fits))


if __name__ == "__main__":
    main()
