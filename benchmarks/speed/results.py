"""Read what a run of a group left: rows in their order, with results or the reason of none."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Results", "Row", "read_results"]


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: Method or shape.
        ratios: Median, quartiles and rounds of the time over that of others, by their name.
        seconds: Median CPU seconds, of ``subject`` and the others.
        values: Other figures.
        call: CPU seconds of the single call whose result was asserted.
        reason: Why there is no result, if there is none.
    """

    name: str
    ratios: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    call: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Results:
    """A group's tables and the circumstances of the run.

    Attributes:
        tables: Title to rows, in the order of the tests.
        facts: Date, processor, versions, threads, load and commit, in words.
        failure: Why there are no tables, if there are none.
    """

    tables: dict[str, list[Row]] = field(default_factory=dict)
    facts: list[str] = field(default_factory=list)
    failure: str = ""


def read_results(path: Path) -> Results:
    """Read a group's file; a missing or failed one says so."""
    if not path.exists():
        return Results(failure="this group has not been run")
    content = json.loads(path.read_text())
    if "failure" in content:
        return Results(failure=content["failure"])
    done = {(b["extra_info"]["table"], b["extra_info"]["row"]): b for b in content["benchmarks"]}
    missing = {(row["table"], row["row"]): row for row in content["missing"]}
    tables: dict[str, list[Row]] = {}
    for row in content["rows"]:
        key = row["table"], row["row"]
        tables.setdefault(key[0], []).append(_row(key, done, missing))
    return Results(tables, _facts(content))


def _row(
    key: tuple[str, str], done: dict[Any, dict[str, Any]], missing: dict[Any, dict[str, str]]
) -> Row:
    if key in missing:
        said = missing[key]
        prefix = "failed: " if said["outcome"] == "failed" else ""
        return Row(key[1], reason=prefix + said["reason"])
    if key not in done:
        return Row(key[1], reason="the run ended before it")
    info = done[key]["extra_info"]
    return Row(
        key[1],
        info.get("ratios", {}),
        info.get("seconds", {}),
        info.get("values", {}),
        done[key]["stats"]["mean"],
    )


def _facts(content: dict[str, Any]) -> list[str]:
    """Say when, where and with what it was run."""
    infos = [bench["extra_info"] for bench in content["benchmarks"]]
    loads = [info["load"][0] for info in infos]
    versions = ", ".join(f"{name} {number}" for name, number in infos[0]["versions"].items())
    machine, commit = content["machine_info"], content["commit_info"]
    state = " with changes" if commit["dirty"] else ""
    threads = {f"{info['threads']} (OMP_NUM_THREADS {info['OMP_NUM_THREADS']})" for info in infos}
    return [
        f"{content['datetime'][:16].replace('T', ' ')} UTC, commit {commit['id'][:7]}{state}",
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python_version']}",
        f"threads {' and '.join(sorted(threads))}, load {min(loads):.1f} to {max(loads):.1f}",
        versions,
    ] + ([] if content["is_full"] else ["a short run: small shapes, times mean nothing"])
