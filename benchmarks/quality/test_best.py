from __future__ import annotations

from benchmarks.quality.best import render_best
from benchmarks.quality.plugins import find_measures
from benchmarks.quality.summary import Estimate, Row

FAMILIES = {"Ours": "captum_kmex", "Slow ours": "captum_kmex", "CAM": "c", "Slow": "s"}
FAMILIES |= {"Random": "Controls"}
COSTS = {"Ours": 1.25, "Slow ours": 30, "CAM": 1.1, "Slow": 1234, "Random": 0}


def _row(method: str, measure: str, key: str, mean: float, half: float, count: int = 9) -> Row:
    return Row("t", method, measure, {key: Estimate(mean, mean - half, mean + half, count, 1)})


def _lines(*rows: Row) -> list[str]:
    costs = [_row(method, "cost", "seconds", cost, 0, 1) for method, cost in COSTS.items()]
    page = render_best([*rows, *costs], find_measures(), FAMILIES, {"t": "Task", "u": "Other"})
    return page.splitlines()


def test_the_best_of_each_side_at_two_costs_losses_on_top() -> None:
    lines = _lines(
        _row("Ours", "localisation", "pointing", 0.6, 0.05),
        _row("CAM", "localisation", "pointing", 0.58, 0.05),
        _row("Random", "localisation", "pointing", 1, 0),
        _row("Ours", "deletion", "deletion", 0.4, 0.05),
        _row("Slow ours", "deletion", "deletion", 0.1, 0.05),
        _row("CAM", "deletion", "deletion", 0.2, 0.05),
        _row("Slow", "deletion", "deletion", 0.3, 0.01),
        _row("Ours", "deletion", "insertion", 0.9, 0.1),
        _row("CAM", "deletion", "insertion", 0.7, 0.05),
        _row("Slow", "deletion", "insertion", 0.99, 0.01),
    )
    assert lines == [
        "At most 5 passes: 1 loss, 1 tie, 1 win; any cost: 0 losses, 3 ties, 0 wins.",
        "",
        "### Task",
        "",
        "| | ours, at most 5 passes | others, at most 5 passes "
        "| ours, any cost | others, any cost |",
        "|---|---|---|---|---|",
        "| deletion ↓ | Ours, ×1.2<br>40.0 (35.0–45.0) | CAM, ×1.1<br>20.0 (15.0–25.0)<br>*loss* "
        "| Slow ours, ×30<br>10.0 (5.0–15.0) | the same<br>tie |",
        "| pointing game ↑ | Ours, ×1.2<br>60.0 (55.0–65.0) | CAM, ×1.1<br>58.0 (53.0–63.0)<br>tie "
        "| the same | the same<br>tie |",
        "| insertion ↑ | Ours, ×1.2<br>90.0 (80.0–100.0) | CAM, ×1.1<br>70.0 (65.0–75.0)<br>"
        "**win** | the same | Slow, ×1,234<br>99.0 (98.0–100.0)<br>tie |",
    ]


def test_a_mean_of_few_images_and_a_side_without_a_value_are_left_out() -> None:
    few = _row("Slow", "localisation", "pointing", 0.9, 0, 1)
    assert _lines(_row("Ours", "localisation", "pointing", 0.5, 0, 64), few) == []
    lines = _lines(
        _row("Ours", "localisation", "pointing", 0.5, 0.1),
        _row("Slow", "localisation", "pointing", 0.9, 0.1),
    )
    assert lines[-1] == (
        "| pointing game ↑ |  |  "
        "| Ours, ×1.2<br>50.0 (40.0–60.0) | Slow, ×1,234<br>90.0 (80.0–100.0)<br>*loss* |"
    )
    assert render_best([], find_measures(), FAMILIES, {"t": "Task"}) == ""
