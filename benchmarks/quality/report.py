"""The report of a run: its JSON, its figures, and the page that shows them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures.intervals import draw
from benchmarks.quality.cells import Cell
from benchmarks.quality.comparison import render_comparison
from benchmarks.quality.glance import render_glance
from benchmarks.quality.measure import Measure
from benchmarks.quality.plugins import find_measures, find_methods, find_tasks
from benchmarks.quality.presets import Preset
from benchmarks.quality.summary import Row, summarise
from benchmarks.quality.tables import render
from benchmarks.timing import environment

__all__ = ["image_folder", "write_report"]

_PAIRS = (
    ("B234 unfitted", "Grad-CAM"),
    ("B234 unfitted", "Permuted B234 segments + CAM"),
    ("B234 unfitted", "SLIC 100 + CAM"),
    ("B234 fitted", "Grad-CAM"),
)


@dataclass(frozen=True)
class _Run:
    """What is in a run's folder."""

    cells: list[Cell]
    titles: dict[str, str]
    notes: dict[str, list[str]]
    absent: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> _Run:
        cells = [Cell.load(path) for path in sorted(folder.glob("*/*.cell.json"))]
        about = {p.parent.name: json.loads(p.read_text()) for p in folder.glob("*/task.json")}
        names = [name for name in find_tasks() if name in about]
        return cls(
            cells,
            {name: about[name]["title"] for name in names},
            {about[name]["title"]: about[name]["notes"] for name in names},
            {p.parent.name: p.read_text() for p in folder.glob("*/unavailable.txt")},
        )


def write_report(folder: Path, preset: Preset, results: Path, page: Path) -> None:
    """Write the JSON and the page of all that has been run, and the page's figures beside it.

    Args:
        folder: Where the run keeps its cells.
        preset: Sizes of the run.
        results: JSON file to write.
        page: Markdown file to write; its figures go beside it.
    """
    run = _Run.read(folder)
    measures, methods = find_measures(), find_methods()
    rows = summarise(run.cells, preset.bootstrap)
    found = {"preset": asdict(preset), "environment": environment(), "rows": [*map(asdict, rows)]}
    for path in (results, page):
        path.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(found, indent=1) + "\n")
    images = image_folder(page)
    figures = {p.stem: p.relative_to(page.parent) for p in draw(rows, measures, methods, images)}
    parts = ["\n".join(_head(run, preset, results)), *_glance(rows, measures, run)]
    parts += [*_comparisons(run, preset), *_paper_figures(page)]
    page.write_text(render(rows, measures, methods, run.titles, figures, "\n\n".join(parts)))


def image_folder(page: Path) -> Path:
    """Return where the figures of a page go."""
    return page.parent / "images" / "benchmark"


def _paper_figures(page: Path) -> Iterator[str]:
    """Show Figures 1 and 2 of the paper, where they have been drawn."""
    paths = sorted(image_folder(page).glob("figure[12]*.png"))
    if paths:
        yield "## Figures 1 and 2 of the paper"
    for path in paths:
        yield f"![{path.stem}]({path.relative_to(page.parent)})"


def _head(run: _Run, preset: Preset, results: Path) -> Iterator[str]:
    found: dict[str, Any] = environment()
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    seeds = ", ".join(map(str, preset.seeds))
    yield f"# Benchmark: preset {preset.name}\n"
    yield (
        f"Made by `python -m benchmarks.quality.command --preset {preset.name}`: at most "
        f"{preset.n_images} test images a task are explained, and pixels are removed from at most "
        f"{preset.n_perturbed} of them, a quarter of that for photographs; seeds {seeds} "
        "for methods that depend on one. In brackets stand 95 % bootstrap intervals over images "
        "and seeds. Arrows say which end is better; the best of a "
        "column is bold. Maps of all methods are brought to the images' size bilinearly. The "
        "explained class is the one that the network predicts. Every number is in "
        f"`{results.name}`. Threads {found['threads']}; {versions}.\n"
    )
    yield from (f"- {title}: {note}" for title, notes in run.notes.items() for note in notes)
    yield from (f"- {name} did not run: {reason}" for name, reason in run.absent.items())


def _glance(rows: list[Row], measures: Mapping[str, Measure], run: _Run) -> Iterator[str]:
    if tables := render_glance(rows, measures, run.titles):
        yield "## At a glance"
        yield (
            "Means of the best-known methods, in per cent but for agreement and seconds; the best "
            "of these is bold, controls aside, whether or not the others differ for certain. A "
            "slow method explains fewer images; its mean is left out where they are fewer than one "
            "in eight. Every method and measure, what the measures are, intervals and numbers of "
            "images stand below."
        )
        yield tables


def _comparisons(run: _Run, preset: Preset) -> Iterator[str]:
    measures = find_measures()
    tables = [
        render_comparison(run.cells, *pair, measures, run.titles, preset.bootstrap)
        for pair in _PAIRS
    ]
    if any(tables):
        yield "## Where we win and where we lose"
        yield (
            "Differences on the same images, seeds averaged, with 95 % bootstrap intervals; a "
            "difference whose interval holds zero is a tie. Percentages are in points."
        )
        yield from filter(None, tables)
