"""Short and full runs of the benchmarks; one thread and CPU time in both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from threadpoolctl import threadpool_limits

from benchmarks.speed.cases import Case
from benchmarks.speed.recorder import Recorder

_missing = pytest.StashKey[list[dict[str, str]]]()
_rows = pytest.StashKey[list[dict[str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--full``."""
    parser.addoption("--full", action="store_true", help="benchmarks: real shapes, many rounds")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; time nothing unless the times are kept."""
    config.addinivalue_line("markers", "cases(short, full): rows of the two kinds of run")
    config.addinivalue_line("markers", "bench: a benchmark, or the slow test of one")
    config.stash[_missing], config.stash[_rows] = [], []
    config.option.benchmark_timer = "time.process_time"
    if not _is_full(config) and not config.getoption("benchmark_json", None):
        config.option.benchmark_disable = True


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests that fill tables."""
    if item.get_closest_marker("cases") is not None:
        item.add_marker("bench")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on the cases of this kind of run."""
    marker = metafunc.definition.get_closest_marker("cases")
    if marker is not None:
        cases = marker.kwargs["full" if _is_full(metafunc.config) else "short"]
        metafunc.parametrize("case", cases, ids=[case.id for case in cases])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note the rows in their order, whether or not they will have a result."""
    for item in session.items:
        case = _case(item)
        if case is not None:
            session.config.stash[_rows].append({"table": case.table, "row": case.row})


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Note why a row has no result."""
    outcome: Any = yield
    report, case = outcome.get_result(), _case(item)
    if case is None or report.passed:
        return
    reason = report.longrepr[2] if report.skipped else report.longrepr.reprcrash.message
    reason = reason.removeprefix("Skipped: ").splitlines()[0]
    missing = {"table": case.table, "row": case.row, "outcome": report.outcome, "reason": reason}
    item.config.stash[_missing].append(missing)


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Leave the raw times and the machine's name out of the file, put the missing rows in."""
    for bench in output_json["benchmarks"]:
        bench["stats"] = {name: bench["stats"][name] for name in ("mean", "rounds")}
        for name in ("params", "param", "options"):
            bench.pop(name, None)
    machine = output_json["machine_info"]
    cpu = machine.get("cpu", {}).get("brand_raw", machine.get("processor", ""))
    kept = {name: machine.get(name) for name in ("system", "release", "python_version")}
    output_json["machine_info"] = {"cpu": cpu, "cores": os.cpu_count()} | kept
    commit = output_json.get("commit_info", {})
    output_json["commit_info"] = {name: commit.get(name) for name in ("id", "dirty", "time")}
    output_json["is_full"] = _is_full(config)
    output_json["rows"] = config.stash[_rows]
    output_json["missing"] = config.stash[_missing]


def _is_full(config: pytest.Config) -> bool:
    return bool(config.getoption("full", default=False))


def _case(item: pytest.Item) -> Case | None:
    spec = getattr(item, "callspec", None)
    case = spec.params.get("case") if spec is not None else None
    return case if isinstance(case, Case) else None


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def is_full(request: pytest.FixtureRequest) -> bool:
    """Whether this is a full run."""
    return _is_full(request.config)


@pytest.fixture
def record(benchmark: BenchmarkFixture, case: Case, is_full: bool) -> Recorder:
    """Where a test puts its times and values."""
    return Recorder(benchmark, case, is_full)
