"""Functions of test modules in processes of their own, which may be killed or form a group."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

import pytest
import torch

import captum_kmex

PATIENCE = 120  # seconds after which a process counts as hanging
# the package itself imports what is asked for; a server that only has its name saves nothing
_IMPORTED = [
    "captum_kmex.attributions.kmex",
    "captum_kmex.attributions.layer_kmeans",
    "sklearn.cluster",
    "torch.distributed",
    "pytest",
]

needs_processes = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(),
    reason="processes are forked from a server that has the imports done",
)


def start(function: Callable[..., None], *arguments: object) -> BaseProcess:
    """Run a function of a test module in a fresh process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    root = str(Path(captum_kmex.__file__).parents[1])
    process = context.Process(target=_alone, args=(function, arguments), daemon=True)
    with mock.patch.dict(os.environ, PYTHONPATH=root, OMP_NUM_THREADS="1"):
        process.start()
    return process


def _alone(function: Callable[..., None], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    function(*arguments)


def finish(process: BaseProcess) -> int:
    """Wait for a process and return its exit code, minus the signal if it was killed."""
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        pytest.fail(f"the process did not end within {PATIENCE} s")
    return process.exitcode
