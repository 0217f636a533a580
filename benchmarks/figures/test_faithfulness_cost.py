from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.quality.plugins import find_methods
from benchmarks.quality.results import Comparison, Results
from benchmarks.quality.summary import Estimate
from benchmarks.studies.faithfulness_cost import COLUMNS, draw, found_of, render

PASSES = {"B234 unfitted": 1.2, "B234 measured": 27.0, "RISE, 100 masks": 100.0}


def compared(method: str, measure: str, column: str, mean: float, task: str = "natural"):
    estimate = Estimate(mean, mean - 0.01, mean + 0.03, 48, 1)
    return Comparison(method, "Grad-CAM", task, measure, column, estimate)


@pytest.fixture
def results() -> Results:
    own = [
        compared("B234 unfitted", "deletion", "deletion", -0.05),
        compared("B234 measured", "deletion", "deletion", -0.03),
        compared("B234 measured", "deletion", "insertion", 0.08),
        compared("RISE, 100 masks", "deletion", "insertion", -0.07),
        compared("B234 measured", "deletion", "insertion", 0.5, task="mnist"),
        replace(compared("B234 measured", "deletion", "insertion", 0.6), rival="SLIC 100 + CAM"),
    ]
    return Results({}, {}, {}, {}, [], own)


def test_gains_are_points_and_up_is_better(results):
    found = found_of(results)
    fell = found["B234 unfitted"]["deletion to the mean"]
    assert (fell.mean, fell.low, fell.high) == pytest.approx((5, 2, 6))
    rose = found["B234 measured"]["insertion from blur"]
    assert (rose.mean, rose.low, rose.high) == pytest.approx((8, 7, 11))
    assert "insertion from blur" not in found["B234 unfitted"]


def test_each_gain_stands_at_its_passes(results):
    figure = draw(found_of(results), PASSES)
    drawn = [bars.lines[0].get_xydata()[0].tolist() for bars in figure.axes[1].containers]
    assert sorted(drawn) == [pytest.approx([27, 8]), pytest.approx([100, -7])]


def test_table_has_the_rival_then_ours_then_the_cheapest_first(results):
    rival = dict.fromkeys(COLUMNS, 43.25)
    lines = render(found_of(results), rival, PASSES).splitlines()[2:]
    names = [line.split("|")[1].strip() for line in lines]
    assert names == ["Grad-CAM", "allocated", "measured", "RISE, 100 masks"]
    assert lines[0] == "| Grad-CAM | 1.5 | 43.2 | 43.2 | 43.2 | 43.2 | 43.2 |"
    # lower deletion is better; an interval of four points is one standard error to a side
    assert lines[1] == "| allocated | 1.2 | **−5.0 ± 1.0** |  |  |  |  |"
    assert lines[2] == "| measured | 27 | −3.0 ± 1.0 | **+8.0 ± 1.0** |  |  |  |"
    assert lines[3] == "| RISE, 100 masks | 100 |  | −7.0 ± 1.0 |  |  |  |"


def test_every_method_has_its_passes():
    known = find_methods()
    assert known["B234 measured"]().passes == 27
    assert known["Integrated Gradients"]().passes == 150
