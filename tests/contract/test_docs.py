"""The documentation's commands, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
    (picture,) = re.findall(r'src="(_images/export-[^"]+\.png)"', page)
    assert (site / picture).stat().st_size > 10_000


def test_reference_names_every_module():
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("api.md", "internals.md"))
    public = [
        "layer_kmeans",
        "classifier_prototypes",
        "kmex",
        "explanation",
    ]  # api.md has the classes
    modules = {path.stem for path in (ROOT / "captum_kmex").glob("[a-z]*.py")} - set(public)
    missing = [name for name in sorted(modules) if f"captum_kmex.{name}" not in pages]
    assert not missing, f"add them to docs/api.md or docs/internals.md: {missing}"


def test_every_page_stands_in_the_table_of_contents():
    index = (ROOT / "docs" / "index.md").read_text()
    entries = [line.strip() for line in index.splitlines()]
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    missing = [p for p in sorted(pages) if p not in entries]
    assert not missing, f"add them to a toctree of docs/index.md: {missing}"
