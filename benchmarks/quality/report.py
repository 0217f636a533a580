"""The report of a run: a page at a glance, a page a task, a page of pairs, and their figures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.figures.intervals import draw_intervals
from benchmarks.page import figure, join, versions
from benchmarks.quality.best import CHEAP, render_best
from benchmarks.quality.choice import render_choice
from benchmarks.quality.comparison import PAIRS, render_comparison
from benchmarks.quality.glance import render_glance
from benchmarks.quality.measure import Measure
from benchmarks.quality.plugins import find_measures, find_methods
from benchmarks.quality.results import Comparison, Results, TaskFacts
from benchmarks.quality.tables import render_tables

__all__ = ["image_folder", "write_pages"]

_PAIRS = "pairs"
_PAPER = "paper_tables.md"  # written by hand
_HOW = (
    "In brackets stand 95 % bootstrap intervals over images and seeds. Arrows say which end is "
    "better. Maps of all methods are brought to the images' size bilinearly. The explained class "
    "is the one that the network predicts."
)


def write_pages(found: Mapping[str, Results], page: Path) -> None:
    """Write what is known: a page at a glance, and in a folder named as it the others.

    Args:
        found: What is known, by the name of the JSON file that holds it; presets share no task.
        page: Markdown file to write; its figures and the folder of the others go beside it.
    """
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    measures, methods = find_measures(), find_methods()
    families = {name: make().family for name, make in methods.items()}
    rows = [row for results in found.values() for row in results.rows]
    tasks = {name: facts for results in found.values() for name, facts in results.tasks.items()}
    titles = {name: facts.title for name, facts in tasks.items()}
    drawn = draw_intervals(rows, measures, methods, image_folder(page))
    figures = {path.stem: Path(os.path.relpath(path, folder)) for path in drawn}
    for task, facts in tasks.items():
        own = {m: figures[f"{task}-{m}"] for m in measures if f"{task}-{m}" in figures}
        these = [row for row in rows if row.task == task]
        parts = [*_task_head(facts, page), *_means(render_glance(these, measures))]
        parts += [*_paper_figures(task, page), render_tables(these, measures, methods, own)]
        (folder / f"{task}.md").write_text(join(parts) + "\n")
    compared = [c for results in found.values() for c in results.comparisons]
    pairs = join(_pairs(compared, measures, titles))
    if pairs:
        (folder / f"{_PAIRS}.md").write_text(pairs + "\n")
    choice = render_choice(rows, measures, families)
    best = render_best(rows, measures, families, titles)
    parts = ["# Benchmark at a glance", *_choice(choice, page), *_best(best)]
    parts += ["\n".join(_contents(titles, folder, bool(pairs))), *_embeddings(page)]
    parts += ["## How the numbers were made", _HOW]
    parts += ["\n".join(_run(results, name)) for name, results in found.items()]
    page.write_text(join(parts) + "\n")


def image_folder(page: Path) -> Path:
    """Return where the figures of a page go."""
    return page.parent / "images" / "benchmark"


def _choice(tables: str, page: Path) -> Iterator[str]:
    if tables:
        yield "## Which map, at what cost, and how sure"
        yield (
            "From the cheapest up, each map of which none that costs less is so often at the top: "
            "its time over that of a forward pass, and in how many columns (localisation, removal "
            "and insertion under two fills, ROAD, correlation with removals, parts; of 24 images "
            "or more) no other map is better for certain: its interval meets the best's. Ours are "
            "bold. The last line is the best of the controls: where that is at the top, nothing "
            "was told apart."
        )
        yield tables
    cost = page.parent / "images" / "faithfulness_cost.png"
    if cost.exists():
        yield figure(
            "Points better than Grad-CAM over forward passes", cost.relative_to(page.parent)
        )


def _best(tables: str) -> Iterator[str]:
    if tables:
        yield "## Ours beside the best of the others"
        yield (
            "In each line stand the best of our maps and the best of all others, controls aside, "
            f"first among maps that cost at most {CHEAP} forward passes, then at any cost; × is "
            "the measured time over that of a forward pass. A tie is where the intervals meet. "
            "Both sides were chosen by the numbers shown, so that both look a little better than "
            "they are. In per cent, but for agreement and single deletion."
        )
        yield tables


def _contents(titles: Mapping[str, str], folder: Path, has_pairs: bool) -> Iterator[str]:
    at = folder.name
    if titles:
        yield "## Every method and measure\n"
        yield from (f"- [{title}]({at}/{name}.md)" for name, title in titles.items())
    if has_pairs:
        yield f"- [Where we win and where we lose]({at}/{_PAIRS}.md): pairs, image by image"
    if (folder / _PAPER).exists():
        yield f"- [The paper's own tables]({at}/{_PAPER}): one command, for STL10 and for CUB-200"


def _run(found: Results, results: str) -> Iterator[str]:
    """Say how the numbers were made."""
    preset = found.preset
    noun = "seed" if len(preset["seeds"]) == 1 else "seeds"
    seeds = f"{noun} {', '.join(map(str, preset['seeds']))}"
    yield (
        f"`python -m benchmarks quality --preset {preset['name']}`: at most "
        f"{preset['n_images']} test images a task are explained, and pixels are removed from at "
        f"most {preset['n_perturbed']} of them, a quarter of that for photographs; {seeds} "
        f"for methods that depend on one. Every number is in `{results}`. Threads "
        f"{found.environment['threads']}; {versions(found.environment)}.\n"
    )
    yield from (f"- {name} did not run: {reason}" for name, reason in found.absent.items())
    yield from (f"- {later['note']}" for later in found.later)


def _task_head(facts: TaskFacts, page: Path) -> Iterator[str]:
    yield f"# Benchmark: {facts.title}"
    yield (
        f"How the numbers were made stands on [the page at a glance](../{page.name}). In brackets "
        "are 95 % bootstrap intervals; the best of a column is bold."
    )
    yield "\n".join(f"- {note}" for note in facts.notes)


def _means(table: str) -> Iterator[str]:
    if table:
        yield "## At a glance"
        yield (
            "Means of the best-known methods, in per cent but for agreement, single deletion and "
            "seconds; the best of these is bold, controls aside, whether or not the others differ "
            "for certain. A slow method explains fewer images; its mean is left out where they are "
            "fewer than one in eight."
        )
        yield table


def _paper_figures(task: str, page: Path) -> Iterator[str]:
    """Show Figure 1 of the paper for a task, where it has been drawn."""
    paths = sorted(image_folder(page).glob(f"figure1-{task}-*.png"))
    if paths:
        yield "## Figure 1 of the paper"
    for path in paths:
        yield figure(path.stem, os.path.relpath(path, page.with_suffix("")))


def _embeddings(page: Path) -> Iterator[str]:
    """Show Figure 2 of the paper, where it has been drawn."""
    path = image_folder(page) / "figure2.png"
    if path.exists():
        yield "## Figure 2 of the paper"
        yield figure(path.stem, path.relative_to(page.parent))


def _pairs(
    found: Sequence[Comparison], measures: Mapping[str, Measure], titles: Mapping[str, str]
) -> Iterator[str]:
    tables = []
    for subject, rival in PAIRS:
        own = [c for c in found if (c.subject, c.rival) == (subject, rival)]
        estimates = {(c.task, c.measure, c.column): c.estimate for c in own}
        tables.append(render_comparison(estimates, subject, rival, measures, titles))
    if any(tables):
        yield "# Benchmark: where we win and where we lose"
        yield (
            "Differences on the same images, seeds averaged, with 95 % bootstrap intervals; a "
            "difference whose interval holds zero is a tie. Percentages are in points."
        )
        yield from tables
