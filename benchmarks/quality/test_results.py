"""Rows that a later run renews, in a file that holds more than it has run."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from benchmarks.quality.presets import PRESETS
from benchmarks.quality.results import Comparison, Results, TaskFacts
from benchmarks.quality.summary import Estimate, Row

ENVIRONMENT = {"threads": 1, "versions": {"torch": "1"}}


def row(task, method, mean):
    return Row(task, method, "m", {"hits": Estimate(mean, mean, mean, 1, 1)})


def difference(task, mean):
    return Comparison("a", "b", task, "m", "hits", Estimate(mean, mean, mean, 2, 1))


def results():
    facts = {"mnist": TaskFacts("MNIST", ("ink",)), "parts": TaskFacts("Parts")}
    rows = [row("mnist", "a", 0.1), row("mnist", "b", 0.2), row("parts", "a", 0.3)]
    compared = [difference("mnist", 1.0), difference("parts", 2.0)]
    sizes = asdict(PRESETS["test"])
    return Results(sizes, ENVIRONMENT, facts, {"cub200": "no data"}, rows, compared)


def test_results_are_read_as_they_were_written(tmp_path):
    results().save(tmp_path / "new" / "results.json")
    found = Results.load(tmp_path / "new" / "results.json")
    assert found.rows == results().rows
    assert found.tasks == results().tasks
    assert found.comparisons == results().comparisons
    found.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == (tmp_path / "new" / "results.json").read_text()


def test_a_later_run_renews_its_own_rows_and_says_so():
    later = replace(
        results(),
        environment={"threads": 1, "versions": {"torch": "2"}},
        tasks={"mnist": TaskFacts("MNIST", ("ink",))},
        rows=[row("mnist", "a", 0.1), row("mnist", "b", 0.9), row("mnist", "c", 0.4)],
        comparisons=[difference("mnist", 5.0)],
    )
    found = results().renewed(later)
    means = {(r.task, r.method): r.estimates["hits"].mean for r in found.rows}
    expected = {("mnist", "a"): 0.1, ("mnist", "b"): 0.9, ("parts", "a"): 0.3, ("mnist", "c"): 0.4}
    assert means == expected
    assert found.comparisons == [difference("mnist", 5.0), difference("parts", 2.0)]
    assert list(found.tasks) == ["mnist", "parts"]
    assert found.environment == ENVIRONMENT
    note = "MNIST: `b`, `c` (m) were run later than the other rows, with torch 2"
    assert [entry["note"] for entry in found.later] == [note]


def test_a_task_that_is_all_new_is_said_in_a_word():
    later = replace(
        results(),
        environment={"threads": 1, "versions": {"torch": "2"}},
        tasks={"stl10": TaskFacts("STL-10")},
        rows=[row("stl10", "a", 0.1), row("stl10", "b", 0.9)],
    )
    (entry,) = results().renewed(later).later
    note = "STL-10: all rows were run later than those of other tasks, with torch 2"
    assert entry["note"] == note


def test_tables_that_are_all_new_are_named_without_their_rows():
    new = [replace(row("mnist", method, 0.5), measure="n") for method in "ab"]
    later = replace(results(), tasks={"mnist": TaskFacts("MNIST")}, rows=new)
    (entry,) = results().renewed(later).later
    note = "MNIST: all rows of n were run later than the other tables, with torch 1"
    assert entry["note"] == note


def test_new_tables_and_renewed_rows_are_told_apart():
    new = [replace(row("mnist", "a", 0.5), measure="n"), row("mnist", "a", 0.7)]
    later = replace(results(), tasks={"mnist": TaskFacts("MNIST")}, rows=new)
    assert [entry["note"] for entry in results().renewed(later).later] == [
        "MNIST: all rows of n were run later than the other tables, with torch 1",
        "MNIST: `a` (m) was run later than the other rows, with torch 1",
    ]


def test_what_changes_nothing_leaves_no_note():
    assert results().renewed(results()) == results()


def test_a_run_of_other_sizes_renews_nothing():
    with pytest.raises(SystemExit, match="pass another --results"):
        results().renewed(replace(results(), preset={"name": "full"}))
