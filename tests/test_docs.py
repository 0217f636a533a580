"""The documentation's commands, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import captum_kmex
from captum_kmex.bank import PrototypeBank

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
