from __future__ import annotations

from benchmarks.quality.choice import render_choice
from benchmarks.quality.plugins import find_measures
from benchmarks.quality.summary import Estimate, Row

FAMILIES = {"Ours": "captum_kmex", "CAM": "c", "Slow": "s", "Slower": "s", "Random": "Controls"}
COSTS = {"Ours": 1.25, "CAM": 1.1, "Slow": 30, "Slower": 1234, "Random": 0}
COLUMNS = (("deletion", "deletion"), ("deletion", "insertion"), ("localisation", "rank"))


def _rows(task: str, means: dict[str, tuple[float, ...]], count: int = 24) -> list[Row]:
    """Rows of means in the three columns, with intervals of 0.05 to both sides."""
    rows = [
        Row(task, method, "cost", {"seconds": Estimate(cost, cost, cost, 1, 1)})
        for method, cost in COSTS.items()
    ]
    for method, values in means.items():
        for (measure, key), mean in zip(COLUMNS, values, strict=False):
            estimate = Estimate(mean, mean - 0.05, mean + 0.05, count, 1)
            rows.append(Row(task, method, measure, {key: estimate}))
    return rows


def _lines(rows: list[Row]) -> list[str]:
    return render_choice(rows, find_measures(), FAMILIES).splitlines()


def test_a_map_stands_where_no_cheaper_one_is_so_often_at_the_top() -> None:
    means = {
        "CAM": (0.3, 0.5, 0.5),  # beaten everywhere
        "Ours": (0.1, 0.5, 0.85),  # deletion is better low; rank meets the best
        "Slow": (0.3, 0.7, 0.7),  # one top, fewer than ours
        "Slower": (0.12, 0.7, 0.9),
        "Random": (0.9, 0.1, 0.1),
    }
    assert _lines(_rows("t", means)) == [
        "| Small pictures | cost | nothing is better for certain in |",
        "|---|--:|--:|",
        "| CAM | ×1.1 | 0 of 3 |",
        "| **Ours** | ×1.2 | 2 of 3 |",
        "| Slower | ×1,234 | 3 of 3 |",
        "| Random (control) | ×0.0 | 0 of 3 |",
    ]


def test_a_control_that_beats_all_is_at_the_top_and_no_rival() -> None:
    lines = _lines(_rows("natural", {"CAM": (0.3, 0.5, 0.5), "Random": (0.01, 0.5, 0.1)}))
    assert lines == [
        "| Photographs | cost | nothing is better for certain in |",
        "|---|--:|--:|",
        "| CAM | ×1.1 | 3 of 3 |",
        "| Random (control) | ×0.0 | 2 of 3 |",
    ]


def test_maps_with_few_columns_or_few_images_are_left_out() -> None:
    rows = _rows("t", {"CAM": (0.3, 0.5, 0.5), "Ours": (0.1, 0.9)})  # two of three columns
    rows += _rows("t", {"Slow": (0.0, 1.0, 1.0)}, count=1)
    assert [line for line in _lines(rows) if "×" in line] == ["| CAM | ×1.1 | 1 of 3 |"]
    assert render_choice([], find_measures(), FAMILIES) == ""
    assert not _lines(_rows("t", {"CAM": (0.3, 0.5, 0.5)}, count=23))
