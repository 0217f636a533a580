"""Several processes that read a shard each end with the bank of one that reads everything."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path

import pytest
import torch
from fit_process import N_IMAGES, Images, make_attribution, make_loader, run_rank
from safetensors.torch import load_file
from torch import Tensor

from captum_kmex.bank import PrototypeBank

pytestmark = pytest.mark.filterwarnings("ignore:.*kept fewer than")


def fit_ranks(path: Path, world_size: int, *arguments: object) -> list[int]:
    """Fit on several ranks; return their exit codes."""
    store = path.with_name(f"store{len(list(path.parent.glob('store*')))}")
    context = multiprocessing.get_context("fork")
    words = [str(path), *map(str, arguments)]
    processes = [
        context.Process(target=run_rank, args=(rank, world_size, str(store), words))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def banks(path: Path, world_size: int) -> list[dict[str, Tensor]]:
    return [load_file(f"{path}.{rank}") for rank in range(world_size)]


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor], atol: float) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        if atol and ours[name].is_floating_point():
            torch.testing.assert_close(ours[name], theirs[name], atol=atol, rtol=1e-5)
        else:
            assert torch.equal(ours[name], theirs[name]), name


def alone(path: Path, method: str, loader: str = "plain", **options: int) -> dict[str, Tensor]:
    options = {"refine": 1, "memory_budget": 30_000} | options
    make_attribution(method).fit(make_loader(loader, Images()), **options).save(path)
    return load_file(path)


@pytest.mark.parametrize("method", ["layers", "kmex", "headless"])
@pytest.mark.parametrize("loader", ["distributed", "shuffled_distributed"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_find_the_bank_of_one_process(tmp_path, method, loader, world_size):
    """Four ranks read 32 images, two of them twice: a sampler fills up the shards."""
    arguments = ["--method", method, "--loader", loader, "--refine", 0]
    assert fit_ranks(tmp_path / "b", world_size, *arguments) == [0] * world_size
    found = banks(tmp_path / "b", world_size)
    for other in found[1:]:
        assert_equal(found[0], other, atol=0)
    whole = alone(tmp_path / "whole", method, refine=0)
    if method == "headless" and world_size == 4:  # whose sums do count them twice
        found[0] = {n: t for n, t in found[0].items() if not n.startswith("surrogate")}
        whole = {n: t for n, t in whole.items() if not n.startswith("surrogate")}
    # features of other batches differ by rounding; distances are roots of differences of them
    assert_equal(found[0], whole, atol=1e-3)


def test_sums_of_ranks_are_one_exact_step(tmp_path):
    fit_ranks(tmp_path / "b", 2, "--loader", "distributed", "--refine", 2)
    found = banks(tmp_path / "b", 2)
    assert_equal(found[0], found[1], atol=0)
    assert_equal(found[0], alone(tmp_path / "whole", "layers", refine=2), atol=1e-3)


@pytest.mark.parametrize("loader", ["subset", "list", "first_rank_only"])
def test_ranks_with_shards_of_their_own_agree(tmp_path, loader):
    """Also where one of them has no images at all."""
    assert fit_ranks(tmp_path / "b", 2, "--loader", loader, "--budget", 10**6) == [0, 0]
    found = banks(tmp_path / "b", 2)
    assert_equal(found[0], found[1], atol=0)
    bank = PrototypeBank.load(tmp_path / "b.0")
    assert bank.provenance["n_images"] == N_IMAGES
    whole = PrototypeBank.load(_saved(tmp_path / "whole"))
    for ours, theirs in zip(bank.codebooks, whole.codebooks, strict=True):
        inertia = (ours.spread * ours.counts).sum() / ours.counts.sum()
        expected = (theirs.spread * theirs.counts).sum() / theirs.counts.sum()
        assert float(inertia) == pytest.approx(float(expected), rel=1e-3)


def _saved(path: Path) -> Path:
    alone(path, "layers", memory_budget=10**6)
    return path


def test_numbers_of_own_shards_name_rank_and_position(tmp_path):
    """Image i of rank r is number 2 i + r, which with these shards is its position."""
    fit_ranks(tmp_path / "b", 2, "--loader", "subset", "--method", "kmex", "--refine", 0)
    ours = load_file(tmp_path / "b.0")["0.representatives.indices"]
    theirs = alone(tmp_path / "whole", "kmex", refine=0)["0.representatives.indices"]
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ("plain", "2 machines read data sets that begin with the same image.*DistributedSampler"),
        ("one_class", "2 of 3 classes without samples"),
    ],
    ids=["everything_twice", "missing_classes"],
)
def test_all_ranks_refuse(tmp_path, loader, message):
    assert fit_ranks(tmp_path / "b", 2, "--loader", loader) == [0, 0]
    for rank in range(2):
        with pytest.raises(ValueError, match=message):
            raise ValueError((tmp_path / f"b.{rank}.error").read_text())


@pytest.mark.parametrize("dies_after", [6, 21, 38], ids=["sample", "refine", "patch"])
def test_killed_ranks_go_on_to_the_same_bank(tmp_path, dies_after):
    what = ["--loader", "distributed", "--refine", 1]
    fit_ranks(tmp_path / "whole", 2, *what)
    place = ["--checkpoint", tmp_path / "c"]
    codes = fit_ranks(tmp_path / "b", 2, *what, *place, "--dies-after", dies_after)
    assert codes == [-signal.SIGKILL] * 2
    assert fit_ranks(tmp_path / "b", 2, *what, *place) == [0, 0]
    for ours, theirs in zip(banks(tmp_path / "b", 2), banks(tmp_path / "whole", 2), strict=True):
        assert_equal(ours, theirs, atol=0)
    assert not list(tmp_path.glob("c*"))


def test_rank_that_was_a_stage_behind_catches_up(tmp_path):
    """Rank 1 loses what it saved after the sampling; rank 0 is at the refinement."""
    what = ["--loader", "distributed", "--refine", 1]
    fit_ranks(tmp_path / "whole", 2, *what)
    place = ["--checkpoint", tmp_path / "c"]
    fit_ranks(tmp_path / "b", 2, *what, *place, "--dies-after", 21)
    (tmp_path / "c.rank1").unlink()
    assert fit_ranks(tmp_path / "b", 2, *what, *place) == [0, 0]
    for ours, theirs in zip(banks(tmp_path / "b", 2), banks(tmp_path / "whole", 2), strict=True):
        assert_equal(ours, theirs, atol=0)
