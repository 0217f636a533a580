"""What README and documentation quote of the study is what its results say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.quality.comparison import CONTROLS_BESIDE
from benchmarks.quality.results import Results
from benchmarks.studies.faithfulness_cost import (
    RESULTS,
    draw,
    found_of,
    known_passes,
    render,
    rival_of,
)

ROOT = Path(__file__).parents[2]
README_TITLES = {"zennit's LRP": "zennit's EpsilonPlusFlat (LRP)", "RISE": "RISE, 100 masks"}
README_TITLES |= {"Integrated Gradients": "Integrated Gradients, 50 steps"}
README_TITLES |= {"ShapBPT": "ShapBPT, 100 evaluations"}
README_TITLES |= {
    "control: Grad-CAM in shuffled segments": (
        "control: Grad-CAM within our segments, their cells shuffled"
    )
}


@pytest.fixture(scope="module")
def passes() -> dict[str, float]:
    return known_passes()


@pytest.fixture(scope="module")
def lines(passes: dict[str, float]) -> list[str]:
    results = Results.load(RESULTS)
    return render(found_of(results), rival_of(results), passes).splitlines()


def test_the_documentation_has_the_table_of_the_study(lines: list[str]) -> None:
    assert "\n".join(lines) in (ROOT / "docs" / "measured.md").read_text()


def test_readme_quotes_the_table_of_the_study(lines: list[str]) -> None:
    table = {cells[0]: cells[1:] for cells in map(_cells, lines)}
    _, _, after = (ROOT / "README.md").read_text().partition("([plotted against the number of")
    quoted = [_cells(line) for line in after.splitlines() if " ± " in line]
    assert quoted
    for title, passes, deletion, insertion, fidelity in quoted:
        known = table[README_TITLES.get(title, title)]
        means = [*deletion.split(" / "), *insertion.split(" / "), fidelity]  # bold alike
        assert [passes, *means] == [known[i] for i in (0, 1, 3, 2, 4, 5)], title


def test_the_figure_has_every_method_in_every_panel(passes: dict[str, float]) -> None:
    found = found_of(Results.load(RESULTS))
    figure = draw(found, passes)
    n_others = sum(not name.startswith("B234") for name in found.keys() - {*CONTROLS_BESIDE})
    for axes in figure.axes:
        assert len(axes.containers) == n_others + 1  # ours are one line


def test_readme_counts_the_models_that_were_tried() -> None:
    records = json.loads((ROOT / "benchmarks" / "results" / "models.json").read_text())
    tried = [record["kind"] for record in records if record["kind"] != "not measured"]
    mapped = sum(kind in ("exact", "linearised") for kind in tried)
    readme = (ROOT / "README.md").read_text()
    assert f"Of [{len(tried)} classifiers of torchvision and timm](docs/models.md)" in readme
    assert f"that were tried, {mapped} give a map" in readme


def test_readme_counts_the_methods_that_were_compared() -> None:
    shown = (ROOT / "benchmarks" / "results" / "quality-full.json", RESULTS)
    rows = [row for path in shown for row in Results.load(path).rows]
    methods, tasks = {row.method for row in rows}, {row.task for row in rows}
    counted = f"[{len(methods)} methods on {len(tasks)} tasks](docs/benchmarks.md)"
    assert counted in (ROOT / "README.md").read_text()


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]
