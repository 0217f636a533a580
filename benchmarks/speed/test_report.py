"""The report on partial results: what is missing says why, and nothing breaks."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.figures.speed import draw_speed_figures
from benchmarks.speed.groups import GROUPS
from benchmarks.speed.report import render
from benchmarks.speed.results import Results, read_results

_RATIO = {"median": 1.25, "low": 1.0, "high": 1.5, "rounds": 3}
_TABLE = "attribute, batch 1"


def _bench(row: str, over: str = "forward") -> dict[str, object]:
    info = {
        "table": _TABLE,
        "row": row,
        "ratios": {over: _RATIO},
        "seconds": {"subject": 0.02},
        "load": [0.5, 0.4, 0.3],
        "threads": 1,
        "OMP_NUM_THREADS": "1",
        "versions": {"torch": "2.15"},
    }
    return {"extra_info": info, "stats": {"mean": 0.02}}


def _file(folder: Path) -> Path:
    rows = ["ours, K=50", "rival", "later", "bare forward, against itself"]
    content = {
        "benchmarks": [_bench(rows[0]), _bench(rows[3])],
        "rows": [{"table": _TABLE, "row": row} for row in rows],
        "missing": [{"table": _TABLE, "row": "rival", "outcome": "failed", "reason": "boom"}],
        "machine_info": {"cpu": "a processor", "cores": 2, "python_version": "3.11"},
        "commit_info": {"id": "0123456789", "dirty": False},
        "datetime": "2026-01-02T03:04:05",
        "is_full": True,
    }
    path = folder / "speed.json"
    path.write_text(json.dumps(content))
    return path


def _page(results: Results) -> str:
    return render({group: Results(failure="not yet") for group in GROUPS} | {"attribute": results})


def test_page_shows_median_quartiles_and_what_something_is_to_itself(tmp_path: Path) -> None:
    page = _page(read_results(_file(tmp_path)))
    assert "| ours, K=50 | 1.25 (1 to 1.5) | 20 ms |" in page
    assert "bare forward, against itself: 1.250 (1.000 to 1.500), 3 rounds." in page
    assert "2026-01-02 03:04 UTC, commit 0123456; a processor, 2 cores" in page


def test_page_says_why_a_row_has_no_result(tmp_path: Path) -> None:
    page = _page(read_results(_file(tmp_path)))
    assert "| rival | failed: boom |" in page
    assert "| later | the run ended before it |" in page


def test_page_says_why_a_group_has_no_results(tmp_path: Path) -> None:
    (tmp_path / "failed.json").write_text('{"failure": "the run ended with code 4"}')
    assert "No results: the run ended with code 4." in _page(read_results(tmp_path / "failed.json"))
    page = _page(read_results(tmp_path / "nowhere.json"))
    assert "No results: this group has not been run." in page


def test_figures_are_drawn_of_what_there_is(tmp_path: Path) -> None:
    found = {group: Results(failure="not yet") for group in GROUPS}
    draw_speed_figures(found | {"attribute": read_results(_file(tmp_path))}, tmp_path)
    assert [path.name for path in tmp_path.glob("*.png")] == ["speed_attribute.png"]
