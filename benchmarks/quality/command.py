"""Run every method on every task, take every measure, and write one report.

Run as ``python -m benchmarks.quality.command --preset quick``; see ``--help``. What was done stays done: the
same command goes on where an interruption left off.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from threadpoolctl import threadpool_limits

from benchmarks.figures.paper import draw_paper_figures
from benchmarks.quality.cells import Cell, run_cell
from benchmarks.quality.plugins import find_measures, find_methods, find_tasks
from benchmarks.quality.presets import PRESETS, Preset
from benchmarks.quality.report import image_folder, write_report

_ROOT = Path(__file__).parents[2]


def main() -> None:
    """Run what was asked for and write the report of all that has been run."""
    options = _arguments()
    torch.set_num_threads(1)
    threadpool_limits(1)  # the libraries below NumPy and scikit-learn
    preset = PRESETS[options.preset]
    tasks = tuple(options.task or preset.tasks)
    folder = options.folder or _ROOT / "benchmarks" / "runs" / preset.name
    if options.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    _check_sizes(folder, preset)
    if not options.read:
        if options.jobs > 1 and len(tasks) > 1:
            _spread(tasks, folder, options)
        else:
            for name in tasks:
                _run_task(name, folder / name, options)
    if not options.no_report:
        page = options.page or folder / "report.md"
        if not (options.read or options.method or options.measure):
            found = find_tasks()
            is_there = [name for name in tasks if (folder / name / "task.json").exists()]
            draw_paper_figures([found[name](preset) for name in is_there], image_folder(page))
        results = options.results or folder / "results.json"
        write_report(folder, preset, results, page)
        print(f"wrote {page} and {results}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.command", description=__doc__
    )
    parser.add_argument("--preset", choices=list(PRESETS), default="quick")
    parser.add_argument("--task", action="append", choices=list(find_tasks()), help="only this")
    parser.add_argument("--method", action="append", metavar="PATTERN", help="only those that fit")
    parser.add_argument("--measure", action="append", choices=list(find_measures()))
    parser.add_argument("--folder", type=Path, help="where results are kept (benchmarks/runs)")
    parser.add_argument("--results", type=Path, help="JSON of the report (in the folder)")
    parser.add_argument("--page", type=Path, help="Markdown of the report (in the folder)")
    parser.add_argument("--jobs", type=int, default=2, help="processes that share the work")
    parser.add_argument("--claims", type=Path, help=argparse.SUPPRESS)  # of a process of several
    parser.add_argument("--fresh", action="store_true", help="forget what has been run")
    parser.add_argument("--read", action="store_true", help="run nothing, write the report again")
    parser.add_argument("--no-report", action="store_true", help="write no report")
    return parser.parse_args()


def _check_sizes(folder: Path, preset: Preset) -> None:
    """Refuse to add to results of other sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    path, sizes = folder / "preset.json", json.dumps(asdict(preset))
    if path.exists() and path.read_text() != sizes:
        raise SystemExit(
            f"{folder} holds results of another preset, {path.read_text()}; pass --fresh to "
            "forget them, or another --folder"
        )
    path.write_text(sizes)


def _spread(tasks: tuple[str, ...], folder: Path, options: argparse.Namespace) -> None:
    """Run several processes, each of which begins with another task and does what is left."""

    def run(first: int) -> None:
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "benchmarks.quality.command",
            "--preset",
            options.preset,
        ]
        start = first % len(tasks)
        for name in tasks[start:] + tasks[:start]:
            command += ["--task", name]
        command += ["--folder", str(folder), "--no-report", "--jobs", "1", "--claims", claims]
        for flag in ("method", "measure"):
            command += [
                part for value in getattr(options, flag) or [] for part in (f"--{flag}", value)
            ]
        subprocess.run(command, cwd=_ROOT, check=False)

    with TemporaryDirectory() as claims, ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run, range(options.jobs)))


def is_claimed(claims: Path | None, name: str) -> bool:
    """Claim a piece of work, unless another process has."""
    if claims is None:
        return False
    try:
        (claims / name).touch(exist_ok=False)
    except FileExistsError:
        return True
    return False


def _run_task(name: str, folder: Path, options: argparse.Namespace) -> None:
    preset = PRESETS[options.preset]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        task = find_tasks()[name](preset)
    except (FileNotFoundError, ImportError) as error:
        (folder / "unavailable.txt").write_text(str(error))
        print(f"{name}: {error}", flush=True)
        return
    (folder / "unavailable.txt").unlink(missing_ok=True)
    about = {"title": task.title, "notes": task.notes}
    (folder / "task.json").write_text(json.dumps(about))
    sample = task.sample("test", preset.n_images)
    known = find_measures()
    measures = {m: known[m] for m in options.measure or known}
    patterns = options.method or ["*"]
    for method, make in find_methods().items():
        if not any(fnmatch(method, pattern) for pattern in patterns):
            continue
        slug = re.sub(r"[^a-zA-Z0-9]+", "-", method)
        if is_claimed(options.claims, f"{name}-{slug}"):
            continue
        for seed in preset.seeds if make().seeded else preset.seeds[:1]:
            path = folder / f"{slug}--{seed}.cell.json"
            cell = Cell.load(path) if path.exists() else Cell(name, method, seed)
            started = time.perf_counter()
            if cell.lacks(measures):
                run_cell(cell, path, make, task, sample, preset, measures)
                seconds = time.perf_counter() - started
                print(f"{name}: {method}, seed {seed}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
