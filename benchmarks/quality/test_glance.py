from __future__ import annotations

from benchmarks.quality import glance
from benchmarks.quality.glance import render_glance
from benchmarks.quality.plugins import find_measures, find_methods
from benchmarks.quality.summary import Estimate, Row


def _row(method: str, measure: str, **means: float) -> Row:
    found = {key: Estimate(mean, mean, mean, 1, 1) for key, mean in means.items()}
    return Row("task", method, measure, found)


def test_the_best_that_is_no_control_is_bold_and_what_was_not_run_is_left_out() -> None:
    rows = [
        _row("Grad-CAM", "localisation", pointing=0.5004, mass=0.9),
        _row("B234 fitted", "localisation", pointing=0.5),
        _row("ACE", "localisation", pointing=0.2),
        _row("Grad-CAM", "cost", seconds=1.5),
        _row("Random map", "cost", seconds=0.01),
        _row("Random map", "localisation", pointing=0.1),
        _row("Saliency", "localisation", pointing=0.99),
    ]
    table = render_glance(rows, find_measures())
    assert table.splitlines() == [
        "| | pointing game ↑ | seconds / forward ↓ |",
        "|---|--:|--:|",
        "| B234 fitted | **50.0** |  |",
        "| Grad-CAM | **50.0** | **1.50** |",
        "| ACE | 20.0 |  |",
        "| Random map | 10.0 | 0.01 |",
    ]
    assert render_glance([], find_measures()) == ""


def test_a_mean_of_few_images_is_left_out() -> None:
    rows = [
        Row("task", name, "localisation", {"pointing": Estimate(0.5, 0.4, 0.6, count, 1)})
        for name, count in (("Grad-CAM", 64), ("Occlusion", 8), ("ACE", 7))
    ]
    table = render_glance(rows, find_measures())
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [
        "| Grad-CAM",
        "| Occlusion",
    ]


def test_what_it_shows_exists() -> None:
    measures = find_measures()
    assert {*glance.METHODS, *glance.CONTROLS} <= {*find_methods()}
    for measure, key in glance.COLUMNS.values():
        assert measures[measure].columns[key].better
