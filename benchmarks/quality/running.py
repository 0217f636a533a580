"""Run the methods on a task, cell by cell, in one process or several that share the work."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.quality.cells import Cell, run_cell
from benchmarks.quality.plugins import find_measures, find_methods, find_tasks
from benchmarks.quality.presets import PRESETS

__all__ = ["is_claimed", "run_task", "spread"]

_ROOT = Path(__file__).parents[2]


def spread(tasks: tuple[str, ...], folder: Path, options: argparse.Namespace) -> None:
    """Run several processes, each of which begins with another task and does what is left."""

    def run(first: int) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks", "quality"]
        command += ["--preset", options.preset]
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


def run_task(name: str, folder: Path, options: argparse.Namespace) -> None:
    """Run what the folder lacks of a task, or note there why the task cannot run."""
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
