"""The documentation's commands, run as they stand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
import torchvision
from torch.utils.data import DataLoader, TensorDataset

import captum_kmex
from captum_kmex.bank.prototype_bank import PrototypeBank

ROOT = Path(captum_kmex.__file__).parents[1]


@pytest.mark.slow
def test_torchrun_command_of_large_data_page_saves_a_bank(tmp_path):
    page = (ROOT / "docs" / "large_data.md").read_text()
    script = next(code for code in re.findall(r"```python\n(.*?)```", page, re.S) if "dist" in code)
    (command,) = re.findall(r"^torchrun (.*) fit\.py$", page, re.M)
    (tmp_path / "fit.py").write_text(script)
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *command.split(), "fit.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    bank = PrototypeBank.load(tmp_path / "birds.safetensors")
    assert bank.provenance["n_images"] == 64
    assert not list(tmp_path.glob("birds.progress*"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site, on which the pages' code has run; the one that was just built, if named."""
    if "CAPTUM_KMEX_SITE" in os.environ:
        return Path(os.environ["CAPTUM_KMEX_SITE"])
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "docs", folder], cwd=ROOT, env=environment, check=True, timeout=900)
    return folder


@pytest.mark.slow
def test_export_page_runs_from_fit_to_picture(site):
    page = (site / "export.html").read_text()
    sums = re.findall(r"rows \+ bias ([\d.]+), logit ([\d.]+)", page)
    assert len(sums) == 3
    assert all(abs(float(total) - float(logit)) < 2e-4 for total, logit in sums)
    (picture,) = re.findall(r'src="(_images/[^"]+\.png)"', page)
    assert (site / picture).stat().st_size > 10_000


@pytest.mark.slow
def test_pages_with_code_are_there_as_notebooks_that_need_no_other(site):
    found = {path.stem: json.loads(path.read_text()) for path in site.rglob("*.ipynb")}
    assert {"tutorial", "export", "troubleshoot", "choose_k"} <= set(found)
    for name, notebook in found.items():
        shown, page = (site / f"{name}.html").read_text(), ROOT / "docs" / f"{name}.md"
        assert f"{name}.ipynb" in shown
        cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
        goes_on = bool(re.search(r"those of\sthe\s\[tutorial\]", page.read_text()))
        assert len(cells) == len(re.findall(r"^```python$", page.read_text(), re.M)) + goes_on, name
        assert "import" in cells[0], name
        printing = [code for code in cells[goes_on:] if re.search(r"^ *print\(", code, re.M)]
        assert shown.count('class="cell_output') >= len(printing) > 0, name


@pytest.mark.slow
def test_readme_runs_as_it_stands(tmp_path, monkeypatch):
    """The first block on a photograph, the second on a network and a data set of one's own."""
    from PIL import Image
    from skimage import data

    monkeypatch.chdir(tmp_path)
    Image.fromarray(data.chelsea()).save("cat.jpg")
    readme = (ROOT / "README.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", readme, re.S)
    space: dict[str, object] = {}
    exec(compile(first, "README.md", "exec"), space)
    assert plt.imread("explained.png").std() > 0.05
    assert space["net"].class_names[int(space["result"].target[0])] == "tiger cat"
    assert abs(float(space["result"].delta[0])) < 1e-3
    x = torch.cat([space["x"] * scale for scale in (0.5, 0.8, 1, 1.2)])
    train_set = TensorDataset(x, torch.arange(4) % 2)
    model = torchvision.models.resnet18(num_classes=2).eval()
    space |= {"train_set": train_set, "model": model, "DataLoader": DataLoader}
    exec(compile(second, "README.md", "exec"), space)
    assert space["attr"].is_fitted
    plt.close("all")


def test_reference_names_every_module():
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("api.md", "internals.md"))
    named = set(re.findall(r"captum_kmex(?:\.\w+)+", pages))
    paths = (
        path.relative_to(ROOT).with_suffix("") for path in (ROOT / "captum_kmex").rglob("*.py")
    )
    modules = {".".join(path.parts) for path in paths if not path.name.startswith("_")}
    missing = sorted(modules - named)
    assert not missing, f"add them to docs/api.md or docs/internals.md: {missing}"


def test_internals_follow_the_levels_of_the_wings_and_name_a_module_once():
    page = (ROOT / "docs" / "internals.md").read_text()
    config = (ROOT / "pyproject.toml").read_text()
    levels = re.search(r"^layers = \[(.*?)^\]", config, re.M | re.S).group(1)
    order = [re.findall(r"\w+", level) for level in levels.splitlines()]
    sections = re.findall(r"^## (\w+)$", page, re.M)
    heights = [next(i for i, level in enumerate(order) if wing in level) for wing in sections]
    assert heights == sorted(heights)
    wings = {wing for level in order for wing in level if not wing.startswith("_")}
    assert set(sections) == wings
    named = re.findall(r"automodule:: captum_kmex\.([\w.]+)|`captum_kmex\.([\w.]+)`", page)
    modules = [automatic or public for automatic, public in named]
    assert len(set(modules)) == len(modules)
    for wing, text in zip(sections, re.split(r"^## \w+$", page, flags=re.M)[1:], strict=True):
        there = re.findall(r"captum_kmex\.(\w+)", text)
        assert set(there) == {wing}


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="names of methods are known from 3.11 on")
def test_pictures_of_the_house_are_what_its_code_says():
    run = subprocess.run(
        [sys.executable, ROOT / "docs" / "make_architecture.py", "--check"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_page_of_the_house_tells_of_every_wing():
    page = (ROOT / "docs" / "architecture.md").read_text()
    told = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| .*? \|", page, re.M))))
    wings = {path.stem for path in (ROOT / "captum_kmex").iterdir()}
    hidden = {wing for wing in wings if wing.startswith("_")} | {"moved", "py"}
    assert told == wings - hidden


def test_every_page_stands_in_the_table_of_contents():
    index = (ROOT / "docs" / "index.md").read_text()
    entries = [line.strip() for line in index.splitlines()]
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    missing = [p for p in sorted(pages) if p not in entries]
    assert not missing, f"add them to a toctree of docs/index.md: {missing}"
