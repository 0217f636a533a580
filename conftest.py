"""How the suite is run: in how many processes, and which tests are the benchmarks'."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return a process for each core; none for files by name, and none where times are kept."""
    names_files = all(argument.split("::")[0].endswith(".py") for argument in config.args)
    if names_files or config.getoption("benchmark_json", None):
        return 0
    return os.cpu_count() or 1


@pytest.hookimpl(tryfirst=True)  # before the marks are asked for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what stands in ``benchmarks/``."""
    for item in items:
        if item.path.is_relative_to(BENCHMARKS):
            item.add_marker("bench")
