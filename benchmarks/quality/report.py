"""The report of a run: its figures, and the page that shows them and every table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.figures.intervals import draw_intervals
from benchmarks.page import figure, join, versions
from benchmarks.quality.comparison import PAIRS, render_comparison
from benchmarks.quality.glance import render_glance
from benchmarks.quality.measure import Measure
from benchmarks.quality.plugins import find_measures, find_methods
from benchmarks.quality.results import Results
from benchmarks.quality.tables import render_tables

__all__ = ["image_folder", "write_page"]


def write_page(found: Results, results: str, page: Path) -> None:
    """Write the page of all that is known, and its figures beside it.

    Args:
        found: What is known.
        results: Name of the JSON file that holds it.
        page: Markdown file to write; its figures go beside it.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    measures, methods = find_measures(), find_methods()
    titles = {name: facts.title for name, facts in found.tasks.items()}
    drawn = draw_intervals(found.rows, measures, methods, image_folder(page))
    figures = {path.stem: path.relative_to(page.parent) for path in drawn}
    parts = ["\n".join(_head(found, results)), *_glance(found, measures, titles)]
    parts += [*_comparisons(found, measures, titles), *_paper_figures(page)]
    parts.append(render_tables(found.rows, measures, methods, titles, figures))
    page.write_text(join(parts) + "\n")


def image_folder(page: Path) -> Path:
    """Return where the figures of a page go."""
    return page.parent / "images" / "benchmark"


def _paper_figures(page: Path) -> Iterator[str]:
    """Show Figures 1 and 2 of the paper, where they have been drawn."""
    paths = sorted(image_folder(page).glob("figure[12]*.png"))
    if paths:
        yield "## Figures 1 and 2 of the paper"
    for path in paths:
        yield figure(path.stem, path.relative_to(page.parent))


def _head(found: Results, results: str) -> Iterator[str]:
    preset = found.preset
    seeds = ", ".join(map(str, preset["seeds"]))
    yield f"# Benchmark: preset {preset['name']}\n"
    yield (
        f"Made by `python -m benchmarks quality --preset {preset['name']}`: at most "
        f"{preset['n_images']} test images a task are explained, and pixels are removed from at "
        f"most {preset['n_perturbed']} of them, a quarter of that for photographs; seeds {seeds} "
        "for methods that depend on one. In brackets stand 95 % bootstrap intervals over images "
        "and seeds. Arrows say which end is better; the best of a "
        "column is bold. Maps of all methods are brought to the images' size bilinearly. The "
        "explained class is the one that the network predicts. Every number is in "
        f"`{results}`. Threads {found.environment['threads']}; {versions(found.environment)}.\n"
    )
    for facts in found.tasks.values():
        yield from (f"- {facts.title}: {note}" for note in facts.notes)
    yield from (f"- {name} did not run: {reason}" for name, reason in found.absent.items())
    yield from (f"- {later['note']}" for later in found.later)


def _glance(
    found: Results, measures: Mapping[str, Measure], titles: Mapping[str, str]
) -> Iterator[str]:
    if tables := render_glance(found.rows, measures, titles):
        yield "## At a glance"
        yield (
            "Means of the best-known methods, in per cent but for agreement and seconds; the best "
            "of these is bold, controls aside, whether or not the others differ for certain. A "
            "slow method explains fewer images; its mean is left out where they are fewer than one "
            "in eight. Every method and measure, what the measures are, intervals and numbers of "
            "images stand below."
        )
        yield tables


def _comparisons(
    found: Results, measures: Mapping[str, Measure], titles: Mapping[str, str]
) -> Iterator[str]:
    tables = []
    for subject, rival in PAIRS:
        own = [c for c in found.comparisons if (c.subject, c.rival) == (subject, rival)]
        estimates = {(c.task, c.measure, c.column): c.estimate for c in own}
        tables.append(render_comparison(estimates, subject, rival, measures, titles))
    if any(tables):
        yield "## Where we win and where we lose"
        yield (
            "Differences on the same images, seeds averaged, with 95 % bootstrap intervals; a "
            "difference whose interval holds zero is a tie. Percentages are in points."
        )
        yield from tables
