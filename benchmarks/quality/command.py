"""Run every method on every task, take every measure, and write one report.

What was done stays done: the same command goes on where an interruption left off. A run of a part
(--task, --method, --measure, --read) renews its own rows in the file of --results, and no others.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from benchmarks.figures.paper import draw_paper_figures
from benchmarks.quality.plugins import find_measures, find_tasks
from benchmarks.quality.presets import PRESETS, Preset
from benchmarks.quality.report import image_folder, write_pages
from benchmarks.quality.results import Results
from benchmarks.quality.running import run_task, spread

__all__ = ["main"]

_RUNS = Path(__file__).parents[1] / "runs"


def main(words: Sequence[str]) -> None:
    """Run what was asked for and write the report of all that has been run."""
    options = _options(words)
    torch.set_num_threads(1)
    threadpool_limits(1)  # the libraries below NumPy and scikit-learn
    preset = PRESETS[options.preset]
    tasks = tuple(options.task or preset.tasks)
    folder = options.folder or _RUNS / preset.name
    if options.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    _check_sizes(folder, preset)
    if not options.read:
        if options.jobs > 1 and len(tasks) > 1:
            spread(tasks, folder, options)
        else:
            for name in tasks:
                run_task(name, folder / name, options)
    if not options.no_report:
        _report(tasks, folder, preset, options)


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks quality", description=__doc__)
    parser.add_argument("--preset", choices=list(PRESETS), default="quick")
    parser.add_argument("--task", action="append", choices=list(find_tasks()), help="only this")
    parser.add_argument("--method", action="append", metavar="PATTERN", help="only those that fit")
    parser.add_argument("--measure", action="append", choices=list(find_measures()))
    parser.add_argument("--folder", type=Path, help="where cells are kept (benchmarks/runs)")
    parser.add_argument("--results", type=Path, help="JSON of the report (in the folder)")
    parser.add_argument("--page", type=Path, help="Markdown of the report (in the folder)")
    parser.add_argument(
        "--also", type=Path, action="append", help="JSON of another preset for the same page"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes that share the work")
    parser.add_argument("--claims", type=Path, help=argparse.SUPPRESS)  # of a process of several
    parser.add_argument("--fresh", action="store_true", help="forget the cells that were run")
    parser.add_argument("--read", action="store_true", help="run nothing, write the report again")
    parser.add_argument("--no-report", action="store_true", help="write no report")
    return parser.parse_args(words)


def _check_sizes(folder: Path, preset: Preset) -> None:
    """Refuse to add to cells of other sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    path, sizes = folder / "preset.json", json.dumps(asdict(preset))
    if path.exists() and path.read_text() != sizes:
        raise SystemExit(
            f"{folder} holds results of another preset, {path.read_text()}; pass --fresh to "
            "forget them, or another --folder"
        )
    path.write_text(sizes)


def _report(
    tasks: Sequence[str], folder: Path, preset: Preset, options: argparse.Namespace
) -> None:
    """Write JSON, page and figures."""
    page, path = options.page or folder / "report.md", options.results or folder / "results.json"
    found = Results.of_run(folder, preset)
    is_part = bool(options.read or options.task or options.method or options.measure)
    if is_part and options.results and path.exists():
        found = Results.load(path).renewed(found)
    if not (options.read or options.method or options.measure):
        known = find_tasks()
        is_there = [name for name in tasks if (folder / name / "task.json").exists()]
        draw_paper_figures([known[name](preset) for name in is_there], image_folder(page))
    found.save(path)
    others = {other.name: Results.load(other) for other in options.also or []}
    write_pages({path.name: found} | others, page)
    print(f"wrote {page} and {path}")
