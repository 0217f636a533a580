from __future__ import annotations

from pathlib import Path

from benchmarks.quality.cells import Cell
from benchmarks.quality.comparison import render_comparison
from benchmarks.quality.measure import Column, Measure
from benchmarks.quality.summary import Estimate, Row, compare
from benchmarks.quality.tables import render_tables

COLUMNS = {
    "hits": Column("hits"),
    "time": Column("time", "low", percent=False),
    "size": Column("size", "", percent=False),
}
MEASURES = {"m": Measure("m", "A measure", COLUMNS, lambda answers: {}, "What it is.")}


class Stub:
    family = "f"


def row(method, reason="", **means):
    found = {k: Estimate(v, v - 0.1, v + 0.1, 9, 2) for k, v in means.items()}
    return Row("t", method, "m", found, reason)


def test_best_of_each_column_is_bold_and_reasons_are_listed():
    rows = [row("a", hits=0.5, time=2, size=1), row("b", hits=0.7, time=3), row("c", "no map")]
    methods, figures = dict.fromkeys("cba", Stub), {"m": Path("t-m.png")}
    page = render_tables(rows, MEASURES, methods, figures)
    lines = page.splitlines()
    assert "| method | family | hits ↑ | time ↓ | size | images × seeds |" in lines
    assert (
        "| a | f | 50.0 (40.0–60.0) | **2.000** (1.900–2.100) | 1.000 (0.900–1.100) | 9 × 2 |"
        in page
    )
    assert "| b | f | **70.0** (60.0–80.0) | 3.000 (2.900–3.100) |  | 9 × 2 |" in page
    assert page.index("| b |") < page.index("| a |")  # the order of the methods
    assert "- c: no map" in lines
    assert "![A measure](t-m.png)" in lines


def test_measures_without_any_value_are_left_out():
    rows = [row("a", "no map")]
    page = render_tables(rows, MEASURES, {"a": Stub}, {})
    assert page == ""


def test_methods_that_a_table_was_not_run_for_are_named():
    rows = [row("a", hits=0.5), Row("t", "b", "n", {}, "no map")]
    measures = MEASURES | {"n": Measure("n", "Another", COLUMNS, lambda answers: {})}
    page = render_tables(rows, measures, dict.fromkeys("abc", Stub), {})
    assert "- b: was not run for this table" in page.splitlines()
    assert "- c" not in page  # it has no row on this task at all
    assert "Another" not in page


def test_comparison_counts_wins_losses_and_ties():
    ours = Cell("t", "ours", 0, {"m": {"hits": [1, 1, 1, 1], "time": [3, 3], "size": [1, 2]}})
    theirs = Cell("t", "theirs", 0, {"m": {"hits": [0, 0, 0, 0], "time": [2, 2], "size": [0, 0]}})
    even = Cell("u", "ours", 0, {"m": {"hits": [0, 1, 0, 1]}})
    odd = Cell("u", "theirs", 0, {"m": {"hits": [1, 0, 1, 0]}})
    titles = {"t": "Task", "u": "Other"}
    cells = [ours, theirs, even, odd]
    found = compare(cells, "ours", "theirs", 100)
    page = render_comparison(found, "ours", "theirs", MEASURES, titles)
    assert "1 win, 1 loss, 1 tie." in page
    assert "| A measure: hits | **+100.0 (+100.0 to +100.0)** win | +0.0 (" in page
    assert "| A measure: time | +1.000 (+1.000 to +1.000) *loss* |  |" in page
    assert "size" not in page  # neither end is better


def test_nothing_to_compare_gives_nothing():
    assert render_comparison({}, "ours", "theirs", MEASURES, {"t": "Task"}) == ""
