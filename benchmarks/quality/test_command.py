from __future__ import annotations

import importlib
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.quality.command import main
from benchmarks.quality.plugins import find_measures, find_methods, find_tasks
from benchmarks.quality.presets import PRESETS
from benchmarks.quality.running import is_claimed


def call(monkeypatch, folder, *words):
    words = ("--preset", "test", "--folder", str(folder), *words)
    threads = torch.get_num_threads()
    main([str(word) for word in words])
    torch.set_num_threads(threads)


@pytest.mark.bench
def test_a_run_is_reported_and_goes_on_where_it_stopped(monkeypatch, tmp_path, capsys):
    some = ("--task", "mnist", "--measure", "surrogate")
    call(monkeypatch, tmp_path, *some, "--method", "KMEx (K=5)", "--method", "Classifier*")
    assert "mnist: KMEx (K=5), seed 1" in capsys.readouterr().out
    found = json.loads((tmp_path / "results.json").read_text())
    rows = {row["method"]: row for row in found["rows"]}
    accuracy = rows["KMEx (K=5)"]["estimates"]["accuracy"]
    assert (accuracy["n_values"], accuracy["n_seeds"]) == (100, 2)
    assert accuracy["low"] <= accuracy["mean"] <= accuracy["high"]
    assert accuracy["mean"] > 0.9  # the network's own embedding, real digits
    assert rows["Classifier prototypes"]["reason"] == "is no surrogate classifier"
    assert "[MNIST](report/mnist.md)" in (tmp_path / "report.md").read_text()
    page = (tmp_path / "report" / "mnist.md").read_text()
    assert f"{accuracy['mean'] * 100:.1f}" in page
    assert "Classifier prototypes: is no surrogate classifier" in page
    call(monkeypatch, tmp_path, *some, "--method", "KMEx*")
    printed = capsys.readouterr().out
    assert "KMEx (K=5)" not in printed
    assert "KMEx (K=10), seed 1" in printed


@pytest.mark.bench
def test_a_page_has_the_tasks_of_several_presets(monkeypatch, tmp_path):
    some = ("--task", "mnist", "--measure", "cost", "--method", "KMEx (K=5)")
    call(monkeypatch, tmp_path / "one", *some)
    other = json.loads((tmp_path / "one" / "results.json").read_text())
    other["tasks"] = {"parts": other["tasks"]["mnist"] | {"title": "Parts"}}
    other["rows"] = [row | {"task": "parts"} for row in other["rows"]]
    other["preset"] |= {"name": "other"}
    (tmp_path / "other.json").write_text(json.dumps(other))
    call(monkeypatch, tmp_path / "one", "--read", "--also", tmp_path / "other.json")
    page = (tmp_path / "one" / "report.md").read_text()
    assert "[Parts](report/parts.md)" in page
    assert "is in `results.json`" in page
    assert "is in `other.json`" in page
    assert "KMEx (K=5)" in (tmp_path / "one" / "report" / "parts.md").read_text()


def test_results_of_other_sizes_are_not_mixed(monkeypatch, tmp_path):
    (tmp_path / "preset.json").write_text("{}")
    with pytest.raises(SystemExit, match="pass --fresh"):
        call(monkeypatch, tmp_path, "--read")


def test_missing_data_are_reported(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("benchmarks.tasks.data.files.SHARE", tmp_path)
    monkeypatch.delenv("CAPTUM_KMEX_DATA", raising=False)
    call(monkeypatch, tmp_path / "out", "--task", "fashion_mnist")
    assert "install the Debian package dataset-fashion-mnist" in capsys.readouterr().out
    assert "fashion_mnist did not run" in (tmp_path / "out" / "report.md").read_text()


def test_everything_found_is_named_and_sourced():
    for name, make in find_methods().items():
        method = make()
        assert method.family, name
        assert method.source, name
        assert method.passes > 0
    assert set(PRESETS["full"].tasks) <= set(find_tasks())
    for measure in find_measures().values():
        assert measure.columns
        assert all(c.better in ("high", "low", "") for c in measure.columns.values())


def test_the_page_on_adding_a_method_works_as_written(monkeypatch, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "add_a_method.md").read_text()
    method, measure = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = re.findall(r"Create `benchmarks/(\w+)/(\w+)\.py`", page)
    for (folder, name), content in zip(names, (method, measure), strict=True):
        package = importlib.import_module(f"benchmarks.{folder}")
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").write_text(content)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / folder)])
    words = ("--task", "mnist", "--method", "Mean activation", "--measure", "map_entropy")
    call(monkeypatch, tmp_path / "out", *words)
    (row,) = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    entropy = row["estimates"]["entropy"]
    assert entropy["n_values"] == 6
    assert 0 < entropy["mean"] < math.log(28 * 28)
    assert "Mean activation | mine" in (tmp_path / "out" / "report" / "mnist.md").read_text()
    for folder, name in names:
        del sys.modules[f"benchmarks.{folder}.{name}"]


def test_a_piece_of_workis_claimed_once(tmp_path):
    assert [is_claimed(tmp_path, name) for name in ("a", "b", "a", "b")] == [0, 0, 1, 1]
    assert not is_claimed(None, "a")
