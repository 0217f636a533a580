"""Goals find their figures in the results, and the page has them as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.page import placed
from benchmarks.speed.command import COMMAND, results_file
from benchmarks.speed.costs import render_costs
from benchmarks.speed.goals import GOALS, Goal, render_goals
from benchmarks.speed.groups import GROUPS
from benchmarks.speed.report import render
from benchmarks.speed.results import Results, Row, read_results

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found() -> dict[str, Results]:
    folder = ROOT / "benchmarks" / "results"
    return {group: read_results(results_file(folder, group)) for group in GROUPS}


def test_every_goal_has_its_figure(found: dict[str, Results]) -> None:
    assert [goal.what for goal in GOALS if goal.measured(found) is None] == []
    assert len({(goal.what, goal.group, goal.table) for goal in GOALS}) == len(GOALS)


def test_the_pages_have_what_the_results_say(found: dict[str, Results]) -> None:
    goals, readme = (ROOT / name for name in ("docs/speed_goals.md", "README.md"))
    assert placed(render_goals(found), COMMAND) in goals.read_text()
    assert placed(render_costs(found["attribute"]), COMMAND) in readme.read_text()
    assert (ROOT / "docs" / "speed.md").read_text() == render(found)


@pytest.mark.parametrize(
    ("is_least", "met", "missed"),
    [(False, [1.0, 1.1499, 1.15], [1.1501, 2.0]), (True, [1.15, 1.1501, 3.0], [1.1499, 0.0])],
)
def test_nothing_is_rounded_to_meet_a_goal(
    is_least: bool, met: list[float], missed: list[float]
) -> None:
    goal = Goal("a ratio", 1.15, "tail", "a table", lambda rows: 0.0, is_least)
    assert [goal.is_met(figure) for figure in met + missed] == [True] * len(met) + [False] * 2


def test_a_figure_that_was_not_measured_is_said_to_be_missing() -> None:
    by_hand = {"tail, batch": [Row("batch 1, K=50", {"forward": {"median": 0.0271}})]}
    some = {group: Results(failure="this group has not been run") for group in GROUPS}
    lines = render_goals(some | {"tail": Results(by_hand)}).splitlines()
    assert (
        "| tail over the forward, 50 prototypes, batch 1 | ≤ 0.02 | 0.0271 | **missed** |" in lines
    )
    assert "| tail over the forward, 50 prototypes, batch 8 | ≤ 0.02 |  | not run |" in lines
    assert lines[2].endswith("|  | this group has not been run |")
