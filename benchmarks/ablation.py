"""Find out what makes the unfitted map good: vary one setting at a time, on validation images.

Run as ``python -m benchmarks.ablation --task photographs``; it prints a Markdown table and keeps
the figures in ``benchmarks/results/ablation-map.json``. Test images are for confirming a choice:
``--split test --row default``.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.ablations.replay import record
from benchmarks.ablations.settings import FINER, Answer, object_masks, rows
from benchmarks.evaluation.cells import Cell
from benchmarks.evaluation.plugins import find_tasks
from benchmarks.evaluation.presets import PRESETS
from benchmarks.evaluation.summary import Row, summarise
from benchmarks.evaluation.task import Sample
from benchmarks.measures.localisation import localise, pointing, relevance_mass, segment_ious
from benchmarks.timing import environment

__all__ = ["score"]

_RESULTS = Path(__file__).parent / "results" / "ablation-map.json"
_TITLES = {
    "pointing": "pointing",
    "rank": "rank",
    "mass": "mass",
    "best_iou": "best IoU",
    "top_iou": "top IoU",
    "part_pointing": "pointing at parts",
    "part_mass": "mass on parts",
    "pointing_gain": "pointing − Grad-CAM",
    "rank_gain": "rank − Grad-CAM",
    "mass_gain": "mass − Grad-CAM",
}


def score(answer: Answer, sample: Sample) -> dict[str, Tensor]:
    """Return the scores (N,) of one row's maps and segments."""
    maps, segments = answer
    masks = object_masks(sample)
    size = (masks.shape[1], masks.shape[2])
    pixels = interpolate(maps, size, mode="bilinear", align_corners=False)[:, 0]
    scores = localise(pixels, masks)
    if sample.parts is not None:
        parts = sample.parts.any(1)
        scores["part_pointing"] = pointing(pixels, parts)
        scores["part_mass"] = relevance_mass(pixels, parts, masks)
    if segments is not None:
        scaled = interpolate(segments[:, None].double(), size, mode="nearest-exact")[:, 0].long()
        scores["best_iou"], scores["top_iou"] = segment_ious(scaled, pixels, masks)
    return scores


def main() -> None:
    """Score the rows that were asked for and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("--task", choices=list(find_tasks()), default="photographs")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--count", type=int, default=100, help="images")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--row", action="append", metavar="PATTERN", help="only rows that fit")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = find_tasks()[options.task](PRESETS["full"])
    sample = task.sample(options.split, options.count)
    finer = [FINER[task.name]] if task.name in FINER else list(task.layers[:1])
    replay = record(task.model, [*finer, *task.layers], sample.inputs)
    cells = []
    known = rows(task, sample, replay)
    reference = score(known["Grad-CAM"](0), sample)
    for name, explain in known.items():
        if not any(fnmatch(name, f"*{pattern}*") for pattern in options.row or [""]):
            continue
        started = time.perf_counter()
        for seed in range(options.seeds):
            found = score(explain(seed), sample)
            gains = {f"{k}_gain": found[k] - reference[k] for k in ("pointing", "rank", "mass")}
            scores = {k: v.tolist() for k, v in (found | gains).items()}
            cells.append(Cell(task.name, name, seed, {options.split: scores}))
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    found_rows = summarise(cells, 2000)
    print(_table(found_rows))
    _keep(options.results, f"{task.name} {options.split}", len(sample), options.seeds, found_rows)


def _table(found: list[Row]) -> str:
    keys = [k for k in _TITLES if any(k in row.estimates for row in found)]
    lines = [
        f"| row | {' | '.join(_TITLES[k] for k in keys)} |",
        "|" + "---|" * (len(keys) + 1),
    ]
    for row in found:
        cells = []
        for key in keys:
            if key not in row.estimates:
                cells.append("")
                continue
            e, sign = row.estimates[key], "+" if key.endswith("gain") else ""
            low, high = 100 * e.low, 100 * e.high
            cells.append(f"{100 * e.mean:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})")
        lines.append(f"| {row.method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _keep(path: Path, name: str, images: int, seeds: int, found: list[Row]) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    table = {row.method: {k: asdict(e) for k, e in row.estimates.items()} for row in found}
    known[name] = {"images": images, "seeds": seeds, "environment": environment(), "rows": table}
    path.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
