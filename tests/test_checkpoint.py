"""A fit killed at any batch and started again ends with the same bank, bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fit_process import N_IMAGES, Images, make_attribution, make_loader, run
from safetensors.torch import load_file

import captum_kmex
from captum_kmex import KMExAttribution

pytestmark = pytest.mark.filterwarnings("ignore:.*kept fewer than")

ROOT = Path(captum_kmex.__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "tests" / "fit_process.py"), *map(str, arguments)]
    return subprocess.Popen(
        command, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[str]) -> int:
    """Wait for a fit; return how many images it read."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return int(re.findall(r"reads (\d+)", out)[0])


def fork(*arguments: object) -> tuple[int, int]:
    """Fit in a forked process, which costs no import; return exit code and images read."""
    process = multiprocessing.get_context("fork").Process(
        target=run, args=([str(argument) for argument in arguments],)
    )
    process.start()
    process.join(120)
    reads = Path(f"{arguments[0]}.reads")
    return process.exitcode, int(reads.read_text()) if reads.exists() else -1


def fit_here(path: Path, method: str = "layers", loader: str = "plain", **options: object) -> None:
    options = {"refine": 1, "memory_budget": 30_000, "checkpoint_interval": 0} | options
    make_attribution(method).fit(make_loader(loader, Images()), **options).save(path)


def assert_same_bank(one: Path, other: Path) -> None:
    ours, theirs = load_file(one), load_file(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


# with 30 images a pass: killed in the sampling, in the refinement, in the search for patches
@pytest.mark.parametrize("dies_after", [0, 13, 41, 77], ids=["first", "sample", "refine", "patch"])
def test_killed_fit_goes_on_to_the_same_bank(tmp_path, dies_after):
    fit_here(tmp_path / "whole")
    place = ["--checkpoint", tmp_path / "c"]
    code, _ = fork(tmp_path / "b", *place, "--dies-after", dies_after)
    assert code == -signal.SIGKILL
    assert not (tmp_path / "b").exists()
    code, reads = fork(tmp_path / "b", *place)
    assert code == 0
    in_last_stage = dies_after % N_IMAGES
    assert reads == 3 * N_IMAGES - dies_after + in_last_stage % 4  # the batch it died in again
    assert_same_bank(tmp_path / "whole", tmp_path / "b")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("method", "loader", "dies_after"),
    [
        ("kmex", "shuffled", 17),
        ("headless", "plain", 9),
        ("layers", "sampler", 22),
        ("kmex", "list", 50),
        ("layers", "list", 14),
    ],
)
def test_any_killed_fit_goes_on_to_the_same_bank(tmp_path, method, loader, dies_after):
    fit_here(tmp_path / "whole", method, loader, memory_budget=4_000)
    what = ["--method", method, "--loader", loader, "--budget", 4_000]
    what += ["--checkpoint", tmp_path / "c"]
    code, _ = fork(tmp_path / "b", *what, "--dies-after", dies_after)
    assert code == -signal.SIGKILL
    code, _ = fork(tmp_path / "b", *what)
    assert code == 0
    assert_same_bank(tmp_path / "whole", tmp_path / "b")


def test_fit_killed_again_and_again_ends_with_the_same_bank(tmp_path):
    fit_here(tmp_path / "whole")
    codes = []
    while 0 not in codes and len(codes) < 20:
        code, _ = fork(tmp_path / "b", "--checkpoint", tmp_path / "c", "--dies-after", 23)
        codes.append(code)
    assert codes == [-signal.SIGKILL] * (len(codes) - 1) + [0]
    assert len(codes) > 3  # each lives for less than a pass
    assert_same_bank(tmp_path / "whole", tmp_path / "b")


def test_fit_killed_from_outside_goes_on(tmp_path):
    count = 300
    options = ["--checkpoint", tmp_path / "c", "--images", count]
    process = start(tmp_path / "b", *options)
    while not (tmp_path / "c").exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=120)
    reads = finish(start(tmp_path / "b", *options))
    assert reads < 3 * count
    finish(start(tmp_path / "whole", "--images", count))
    assert_same_bank(tmp_path / "whole", tmp_path / "b")


@pytest.fixture
def interrupted(tmp_path) -> Path:
    """A checkpoint that an error in the middle of the sampling left."""
    path = tmp_path / "progress"

    class Failing(Images):
        def __getitem__(self, index: int):
            if index == 13:
                raise OSError("a damaged image")
            return super().__getitem__(index)

    with pytest.raises(OSError, match="a damaged image"):
        make_attribution("kmex").fit(
            make_loader("plain", Failing()), checkpoint=path, checkpoint_interval=0
        )
    return path


def test_error_in_the_middle_leaves_a_checkpoint_to_go_on_from(interrupted, tmp_path):
    data = Images()
    attr = make_attribution("kmex")
    attr.fit(make_loader("plain", data), checkpoint=interrupted, checkpoint_interval=0)
    attr.save(tmp_path / "b")
    assert data.reads == 2 * N_IMAGES - 12  # three batches of four were done
    make_attribution("kmex").fit(make_loader("plain", Images())).save(tmp_path / "whole")
    assert_same_bank(tmp_path / "whole", tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda attr: setattr(attr, "seed", 1), "settings"),
        (lambda attr: attr.model.head.weight.data.mul_(2), "model"),
        (lambda attr: setattr(attr, "n_prototypes", 3), "options"),
    ],
    ids=["seed", "weights", "prototypes"],
)
def test_checkpoint_of_another_fit_is_refused(interrupted, change, what):
    attr = make_attribution("kmex")
    change(attr)
    with pytest.raises(ValueError, match=f"belongs to another fit: it differs in .*{what}.*delete"):
        attr.fit(make_loader("plain", Images()), checkpoint=interrupted)
    assert interrupted.exists()
    assert not attr.is_fitted


def test_checkpoint_of_another_order_is_refused(interrupted):
    with pytest.raises(ValueError, match=r"it differs in .*order"):
        make_attribution("kmex").fit(make_loader("sampler", Images()), checkpoint=interrupted)


def test_damaged_checkpoint_is_refused(interrupted):
    interrupted.write_bytes(interrupted.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"truncated or no safetensors file .*; delete it"):
        make_attribution("kmex").fit(make_loader("plain", Images()), checkpoint=interrupted)


def test_bank_is_no_checkpoint(tmp_path):
    attr: KMExAttribution = make_attribution("kmex").fit(make_loader("plain", Images()))
    attr.save(tmp_path / "bank")
    with pytest.raises(ValueError, match="a safetensors file, but no checkpoint of a fit"):
        attr.fit(make_loader("plain", Images()), checkpoint=tmp_path / "bank")
    assert (tmp_path / "bank").exists()


def test_full_disk_leaves_the_checkpoint_before_it(interrupted, monkeypatch):
    before = interrupted.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        make_attribution("kmex").fit(
            make_loader("plain", Images()), checkpoint=interrupted, checkpoint_interval=0
        )
    assert interrupted.read_bytes() == before
    assert list(interrupted.parent.glob(".*")) == []


def test_fit_without_checkpoint_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_attribution("kmex").fit(make_loader("plain", Images()))
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_is_not_written_before_its_interval(tmp_path):
    make_attribution("kmex").fit(
        make_loader("plain", Images()), checkpoint=tmp_path / "c", n_representatives=0
    )
    assert list(tmp_path.iterdir()) == []
