"""Run a module in a process of its own, where memory is its alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["printed_by"]

_ROOT = Path(__file__).parents[2]


def printed_by(module: str, *words: object) -> dict[str, Any]:
    """Return the JSON that ``python -m module words`` prints, run on one thread."""
    command = [sys.executable, "-m", module, *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=_ROOT, env=environment
    )
    found: dict[str, Any] = json.loads(run.stdout)
    return found
