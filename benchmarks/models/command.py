"""Explain the models of torchvision and timm with no argument; write ``docs/models.md``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from benchmarks.models.measure import Record, measured
from benchmarks.models.table import page
from benchmarks.models.zoo import names
from captum_kmex.files.atomic import written_whole

__all__ = ["main"]

_RESULTS = Path(__file__).parents[1] / "results" / "models.json"
_SIZES = _RESULTS.with_name("model-sizes.json")
_PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def main(words: Sequence[str]) -> None:
    """Measure what is not yet measured, and write the page; an interrupted run goes on."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks models", description=__doc__)
    parser.add_argument("--each", type=int, default=6, help="models of each of timm's families")
    parser.add_argument("--seconds", type=int, default=120, help="processor time of each model")
    parser.add_argument("--only", nargs="*", help="measure these models, again if need be")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--page", type=Path, default=_PAGE)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    known = _known(options.results)
    wanted = options.only or [name for name in names(options.each, _SIZES) if name not in known]
    for name in tqdm(wanted, desc="models"):
        known[name] = measured(name, options.seconds)
        _save(options.results, known)
    options.page.write_text(page(list(known.values())))


def _known(path: Path) -> dict[str, Record]:
    records = json.loads(path.read_text()) if path.is_file() else []
    return {record["name"]: record for record in records}


def _save(path: Path, known: dict[str, Record]) -> None:
    with written_whole(path) as unfinished:
        unfinished.write_text(json.dumps(list(known.values()), indent=1) + "\n")
