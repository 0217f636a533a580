"""Run the full benchmarks group by group and write what the documentation says of them.

That is ``docs/speed.md``, the table of goals and README's table of costs. Every group runs in a
process of its own: the tests ``benchmarks/speed/test_GROUP.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures.speed import draw_speed_figures
from benchmarks.page import rewrite
from benchmarks.speed.costs import render_costs
from benchmarks.speed.goals import render_goals
from benchmarks.speed.groups import GROUPS
from benchmarks.speed.report import render
from benchmarks.speed.results import read_results

__all__ = ["COMMAND", "main", "results_file"]

COMMAND = "python -m benchmarks speed"
_ROOT = Path(__file__).parents[2]
_PAGE = _ROOT / "docs" / "speed.md"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def main(words: Sequence[str]) -> None:
    """Run what was asked for and write the page from all results that there are."""
    options = _options(words)
    options.results.mkdir(parents=True, exist_ok=True)
    for group in [] if options.read else options.group or list(GROUPS):
        path = results_file(options.results, group)
        if not (options.resume and path.exists() and not read_results(path).failure):
            _run(group, path, is_full=options.short is None)
    found = {group: read_results(results_file(options.results, group)) for group in GROUPS}
    images = options.page.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    draw_speed_figures(found, images)
    options.page.write_text(render(found))
    print(render_goals(found))
    print(f"wrote {options.page}")
    if options.page == _PAGE:
        rewrite(options.page.with_name("speed_goals.md"), render_goals(found), COMMAND)
        rewrite(_ROOT / "README.md", render_costs(found["attribute"]), COMMAND)


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--group", action="append", choices=list(GROUPS), help="run only this")
    parser.add_argument("--resume", action="store_true", help="run only what has no results")
    parser.add_argument("--read", action="store_true", help="run nothing, write the page again")
    parser.add_argument("--short", type=Path, metavar="DIR", help="try small shapes, write to DIR")
    parser.add_argument("--results", type=Path, default=_ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=_PAGE)
    options = parser.parse_args(words)
    if options.short:
        options.results, options.page = options.short, options.short / "speed.md"
    return options


def results_file(results: Path, group: str) -> Path:
    """Return where a group's results are kept."""
    return results / f"speed-{group.replace('_', '-')}.json"


def _run(group: str, path: Path, is_full: bool) -> None:
    """Run one group's tests in a process of their own and keep their results."""
    print(f"running {group}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "results.json"
        command = [sys.executable, "-m", "pytest", f"benchmarks/speed/test_{group}.py", "-q"]
        command += ["-m", "bench"]  # which the suite leaves out
        command += [f"--benchmark-json={fresh}", "--benchmark-columns=median"]
        command += ["--full"] if is_full else []
        run = subprocess.run(command, cwd=_ROOT, env=os.environ | _ONE_THREAD, check=False)
        if fresh.exists():
            content = json.loads(fresh.read_text())
        else:
            content = {"failure": f"the run ended with code {run.returncode} and no results"}
    path.write_text(json.dumps(content, indent=1) + "\n")
