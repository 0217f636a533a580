"""A fit that was killed, at whatever moment, ends with the bank of one that was not."""

from __future__ import annotations

import functools
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import make_net
from processes import finish, needs_processes, start
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from captum_kmex import KMExAttribution, LayerKMeansAttribution, PrototypeBank
from captum_kmex.bank.tensor_kinds import part
from captum_kmex.fitting import checkpoint
from captum_kmex.fitting.checkpoint import Checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")

N_IMAGES, BATCH, REFINE = 20, 3, 2
N_PASSES = 2 + REFINE  # sample, refine twice, nearest patches
TIGHT = {"kmex": 480, "layers": 12_000, "ridge": 12_000}  # bytes; not all rows fit
KILLED = -9  # by SIGKILL
FLUSHES = [os.fsync]


def slow(*values: object) -> object:
    """One more moment or data set of what another case tests already."""
    return pytest.param(*values, marks=pytest.mark.slow)


class Headless(nn.Module):
    """Its logits are no affine function of a map, so that a ridge surrogate is fitted."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stage2 = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU())
        self.stage3 = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
        self.tail = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.stage3(self.stage2(x)).mean((2, 3)))


class Images(Dataset):
    """Notes what is read in a file, and may kill its own process at the n-th reading."""

    def __init__(self, log: Path | None = None, kill_at: int | None = None, count=N_IMAGES):
        generator = torch.Generator().manual_seed(3)
        self.x = torch.rand(count, 1, 12, 10, generator=generator)
        self.y = torch.arange(count) % 3
        self.x += self.y[:, None, None, None] / 3
        self.log, self.kill_at, self.n_read = log, kill_at, 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.n_read += 1
        if self.n_read == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{index}\n")
        return self.x[index], self.y[index]


class Batches:
    """A plain iterable of batches, without positions."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __iter__(self):
        for indices in torch.arange(len(self.images)).split(BATCH):
            x, y = zip(*(self.images[i] for i in indices.tolist()), strict=True)
            yield torch.stack(x), torch.stack(y)


ORDER = np.random.default_rng(1).permutation(N_IMAGES).tolist()

LOADERS = {
    "ordered": lambda images: DataLoader(images, BATCH),
    "shuffled": lambda images: DataLoader(images, BATCH, shuffle=True),
    "sampler": lambda images: DataLoader(images, BATCH, sampler=ORDER),
    "batch_sampler": lambda images: DataLoader(images, batch_sampler=[ORDER[:9], ORDER[9:13]]),
    "workers": lambda images: DataLoader(images, BATCH, num_workers=1),
    "batches": Batches,
}


def attribution(kind: str):
    if kind == "kmex":
        return KMExAttribution(make_net(), n_prototypes={0: 2, 1: 1, 2: 2})
    model = make_net() if kind == "layers" else Headless().eval()
    return LayerKMeansAttribution(model, ["stage2", "stage3"], n_prototypes=2)


OPTIONS = {"n_init": 2, "refine": REFINE, "n_representatives": 2, "patch_search": "exact"}


def fit(kind: str, loader: str, images: Images, folder: Path, **options) -> PrototypeBank:
    options = {"memory_budget": TIGHT[kind], "checkpoint_interval": 0} | OPTIONS | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (
            attribution(kind)
            .fit(LOADERS[loader](images), checkpoint=folder / "progress", **options)
            .bank_
        )


def fit_and_save(
    kind: str, loader: str, folder: Path, kill_at: int | None, count: int = N_IMAGES
) -> None:
    """What runs in a process of its own."""
    checkpoint._SHARE = 0  # save after every batch, however long that takes
    if os.fsync in FLUSHES:  # it guards against a loss of power, which a kill is not
        os.fsync = int
    fit(kind, loader, Images(folder / "log", kill_at, count), folder).save(folder / "bank")


@functools.cache
def expected_bank(kind: str, loader: str, count: int) -> PrototypeBank:
    options = {"memory_budget": TIGHT[kind]} | OPTIONS
    return attribution(kind).fit(LOADERS[loader](Images(count=count)), **options).bank_


def expected_bytes(kind: str, loader: str, folder: Path, count: int = N_IMAGES) -> bytes:
    """Save the bank of a fit without checkpoint and read the file."""
    expected_bank(kind, loader, count).save(folder / "expected")
    return (folder / "expected").read_bytes()


def readings(folder: Path) -> list[int]:
    """Return the indices read since the last call."""
    log = folder / "log"
    found = [int(line) for line in log.read_text().split()] if log.exists() else []
    log.unlink(missing_ok=True)
    return found


@needs_processes
@pytest.mark.parametrize(
    ("kind", "loader"),
    [
        slow("kmex", "ordered"),
        ("kmex", "sampler"),
        slow("kmex", "batches"),
        slow("layers", "shuffled"),
        ("layers", "batch_sampler"),
        ("layers", "batches"),
        ("ridge", "ordered"),
    ],
)
@pytest.mark.slow
def test_fit_killed_again_and_again_ends_with_the_same_bank(tmp_path, kind, loader):
    moments = np.random.default_rng(len(kind + loader)).integers(5, 45, 100).tolist()
    n_kills, code = 0, KILLED
    while code == KILLED:
        code = finish(start(fit_and_save, kind, loader, tmp_path, moments[n_kills]))
        n_kills += code == KILLED
    assert code == 0
    assert n_kills > 1
    assert (tmp_path / "bank").read_bytes() == expected_bytes(kind, loader, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["bank", "expected", "log"]


@needs_processes
@pytest.mark.parametrize("stage", range(N_PASSES))
@pytest.mark.parametrize(
    "nth", [slow(2), 11, slow(N_IMAGES)], ids=["first_batch", "middle", "last_image"]
)
@pytest.mark.slow
def test_restart_loads_only_the_ends_of_batches_that_are_done(tmp_path, stage, nth):
    kill_at = stage * N_IMAGES + nth
    assert finish(start(fit_and_save, "layers", "ordered", tmp_path, kill_at)) == KILLED
    readings(tmp_path)
    assert finish(start(fit_and_save, "layers", "ordered", tmp_path, None)) == 0
    done = BATCH * ((nth - 1) // BATCH)
    ends = [index for first in range(0, done, BATCH) for index in (first, first + BATCH - 1)]
    later = list(range(N_IMAGES)) * (N_PASSES - 1 - stage)
    assert readings(tmp_path) == [*ends, *range(done, N_IMAGES), *later]
    assert (tmp_path / "bank").read_bytes() == expected_bytes("layers", "ordered", tmp_path)


@needs_processes
def test_restart_of_a_sampler_loads_only_the_ends_of_batches_that_are_done(tmp_path):
    assert finish(start(fit_and_save, "kmex", "sampler", tmp_path, N_IMAGES + 8)) == KILLED
    readings(tmp_path)
    assert finish(start(fit_and_save, "kmex", "sampler", tmp_path, None)) == 0
    ends = [ORDER[i] for i in (0, 2, 3, 5)]
    assert readings(tmp_path) == ends + ORDER[6:] + ORDER * 2


@needs_processes
@pytest.mark.parametrize("seen", [slow(30), 250, slow(500)])
@pytest.mark.slow
def test_fit_killed_from_outside_ends_with_the_same_bank(tmp_path, seen):
    count = 8 * N_IMAGES
    process = start(fit_and_save, "kmex", "ordered", tmp_path, None, count)
    log = tmp_path / "log"
    while not (log.exists() and log.read_text().count("\n") >= seen) and process.is_alive():
        process.join(0.001)
    process.kill()
    assert finish(process) == KILLED
    assert finish(start(fit_and_save, "kmex", "ordered", tmp_path, None, count)) == 0
    expected = expected_bytes("kmex", "ordered", tmp_path, count)
    assert (tmp_path / "bank").read_bytes() == expected
    assert not (tmp_path / "progress").exists()


def fit_killed_while_saving(folder: Path, function: str, nth: int) -> None:
    calls, real = [], getattr(os, function)

    def killing(*arguments):
        calls.append(arguments)
        if len(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    setattr(os, function, killing)
    fit_and_save("layers", "ordered", folder, None)


@needs_processes
@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("nth", [slow(1), 5, slow(9)])
def test_fit_killed_while_it_saves_leaves_nothing_behind(tmp_path, function, nth):
    assert finish(start(fit_killed_while_saving, tmp_path, function, nth)) == KILLED
    assert any(name.startswith(".progress.") for name in os.listdir(tmp_path))
    assert finish(start(fit_and_save, "layers", "ordered", tmp_path, None)) == 0
    assert (tmp_path / "bank").read_bytes() == expected_bytes("layers", "ordered", tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["bank", "expected", "log"]


@needs_processes
def test_restart_with_workers_ends_with_the_same_bank(tmp_path):
    folder = tmp_path
    stopped = Stopping(2 * N_IMAGES + 7)
    with pytest.raises(StoppedError):
        fit("layers", "ordered", stopped, folder)
    bank = fit("layers", "ordered", Images(), folder)
    other = fit("layers", "workers", Images(), folder)
    for ours, theirs in zip(bank.codebooks, other.codebooks, strict=True):
        assert torch.equal(ours.centroids, theirs.centroids)


class StoppedError(Exception):
    pass


class Stopping(Images):
    """Raises at the n-th reading."""

    def __init__(self, stop_at: int) -> None:
        super().__init__()
        self.stop_at = stop_at

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.n_read + 1 == self.stop_at:
            raise StoppedError
        return super().__getitem__(index)


@pytest.fixture
def every_batch(monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "_SHARE", 0)
    monkeypatch.setattr(os, "fsync", int)


@pytest.fixture
def interrupted(tmp_path, every_batch) -> Path:
    """A checkpoint in the middle of the second pass."""
    with pytest.raises(StoppedError):
        fit("layers", "ordered", Stopping(N_IMAGES + 8), tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["kmex", "layers", "ridge"])
@pytest.mark.parametrize("stop_at", [7, N_IMAGES + 1, 3 * N_IMAGES + 15])
def test_fit_after_an_exception_ends_with_the_same_bank(tmp_path, every_batch, kind, stop_at):
    with pytest.raises(StoppedError):
        fit(kind, "shuffled", Stopping(stop_at), tmp_path)
    assert (tmp_path / "progress").is_file()
    fit(kind, "shuffled", Images(), tmp_path).save(tmp_path / "bank")
    assert (tmp_path / "bank").read_bytes() == expected_bytes(kind, "shuffled", tmp_path)
    assert not (tmp_path / "progress").exists()


@pytest.mark.parametrize("kind", ["kmex", "layers"])
@pytest.mark.parametrize("stop_at", [7, N_IMAGES + 1, 2 * N_IMAGES + 15])
def test_fit_in_one_pass_after_an_exception_ends_with_the_same_bank(
    tmp_path, every_batch, kind, stop_at
):
    """Patches come from the sample, of which only rows near the prototypes are saved later."""
    options = OPTIONS | {"memory_budget": TIGHT[kind], "patch_search": "sample"}
    with pytest.raises(StoppedError):
        fit(kind, "shuffled", Stopping(stop_at), tmp_path, patch_search="sample")
    images = Images()
    fit(kind, "shuffled", images, tmp_path, patch_search="sample").save(tmp_path / "bank")
    attribution(kind).fit(LOADERS["shuffled"](Images()), **options).save(tmp_path / "expected")
    assert (tmp_path / "bank").read_bytes() == (tmp_path / "expected").read_bytes()
    assert not (tmp_path / "progress").exists()


@pytest.mark.parametrize("refine", [0, 1])
def test_fit_reads_the_data_once_and_again_for_each_refinement(tmp_path, refine):
    images = Images()
    attribution("layers").fit(DataLoader(images, BATCH), n_init=1, refine=refine)
    assert images.n_read == N_IMAGES * (1 + refine)


def test_exception_keeps_the_earlier_bank(tmp_path, every_batch):
    attr = attribution("layers").fit(DataLoader(Images(), BATCH), **OPTIONS)
    bank = attr.bank_
    loader = DataLoader(Stopping(N_IMAGES + 8), BATCH)
    with pytest.raises(StoppedError):
        attr.fit(loader, checkpoint=tmp_path / "progress", checkpoint_interval=0, **OPTIONS)
    assert attr.bank_ is bank
    assert os.listdir(tmp_path) == ["progress"]


def test_one_shot_loader_goes_on_where_it_stopped(tmp_path, every_batch):
    options = {"refine": 0, "n_representatives": 0}
    images = Stopping(11)

    def once(images):
        yield from Batches(images)

    with pytest.raises(StoppedError):
        attribution("kmex").fit(
            once(images), checkpoint=tmp_path / "c", checkpoint_interval=0, **options
        )
    found = attribution("kmex").fit(once(Images()), checkpoint=tmp_path / "c", **options).bank_
    expected = attribution("kmex").fit(Batches(Images()), **options).bank_
    assert torch.equal(found.codebooks[0].centroids, expected.codebooks[0].centroids)


@pytest.mark.parametrize("nth", [1, 4, 9])
def test_full_disk_leaves_the_checkpoint_before_it(tmp_path, every_batch, monkeypatch, nth):
    replaced, real = [], os.replace

    def full(source, target):
        if len(replaced) + 1 == nth:
            raise OSError(28, "No space left on device")
        real(source, target)
        replaced.append(Path(target).read_bytes())

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        fit("layers", "ordered", Images(), tmp_path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == (["progress"] if nth > 1 else [])
    if nth > 1:
        assert (tmp_path / "progress").read_bytes() == replaced[-1]
    fit("layers", "ordered", Images(), tmp_path).save(tmp_path / "bank")
    assert (tmp_path / "bank").read_bytes() == expected_bytes("layers", "ordered", tmp_path)


def test_uninterrupted_fit_leaves_no_file(tmp_path):
    fit("kmex", "ordered", Images(), tmp_path)
    assert os.listdir(tmp_path) == []


def test_failed_fit_without_a_save_leaves_no_file(tmp_path):
    with pytest.raises(StoppedError):
        fit("kmex", "ordered", Stopping(5), tmp_path, checkpoint_interval=1000)
    assert os.listdir(tmp_path) == []


def test_long_saves_are_made_less_often(tmp_path, monkeypatch):
    """A save may take a twentieth of the time, whatever the interval."""
    now = [0.0]
    monkeypatch.setattr("captum_kmex.fitting.checkpoint.time.monotonic", lambda: now[0])
    progress = Checkpoint(tmp_path / "c", {}, interval=1)

    def slow(*_):
        now[0] += 3

    monkeypatch.setattr("captum_kmex.fitting.checkpoint.write_tensors", slow)
    now[0] = 1.0
    assert progress.is_due
    progress.save(1, {})
    now[0] += 59
    assert not progress.is_due
    now[0] += 1
    assert progress.is_due


def test_without_a_path_nothing_is_ever_due():
    progress = Checkpoint(None, {}, interval=0)
    assert not progress.is_due
    progress.save(1, {})
    progress.remove()


# ---------------------------------------------------------------- of another fit


def other_weights() -> LayerKMeansAttribution:
    return LayerKMeansAttribution(make_net(seed=1), ["stage2", "stage3"], n_prototypes=2)


def like_first(**options) -> LayerKMeansAttribution:
    layers = options.pop("layers", ["stage2", "stage3"])
    return LayerKMeansAttribution(make_net(), layers, **({"n_prototypes": 2} | options))


@pytest.mark.parametrize(
    ("make", "options", "names"),
    [
        (lambda: like_first(seed=1), {}, ["options", "settings"]),
        (lambda: like_first(n_prototypes=3), {}, ["options", "settings"]),
        (lambda: like_first(weighting="nave"), {}, ["settings"]),
        (other_weights, {}, ["model"]),
        (lambda: like_first(layers=["stage1", "stage3"]), {}, ["layers"]),
        (lambda: like_first(layers=["stage3"]), {}, ["layers"]),
        (like_first, {"refine": 3}, ["options"]),
        (like_first, {"n_init": 3}, ["options"]),
        (like_first, {"labels": "predicted"}, ["options"]),
        (like_first, {"classes": [0, 1]}, ["options"]),
        (like_first, {"memory_budget": 13_000}, ["options"]),
        (like_first, {"patch_search": "sample"}, ["options"]),
        (like_first, {"attribute_to_layer_input": True}, ["at_input"]),
    ],
)
def test_checkpoint_of_another_fit_is_refused_with_what_differs(interrupted, make, options, names):
    options = OPTIONS | {"memory_budget": TIGHT["layers"]} | options
    before = (interrupted / "progress").read_bytes()
    message = f"belongs to another fit: it differs in {names} .*delete it, or pass another path"
    with pytest.raises(ValueError, match=message.replace("[", r"\[").replace("]", r"\]")):
        make().fit(DataLoader(Images(), BATCH), checkpoint=interrupted / "progress", **options)
    assert (interrupted / "progress").read_bytes() == before


@pytest.mark.parametrize(
    ("loader", "names"),
    [
        (DataLoader(Images(), BATCH, sampler=ORDER), ["order"]),
        (DataLoader(Images(), BATCH + 1), ["batch_size", "batches", "order"]),
        (DataLoader(Images(count=19), BATCH), ["order"]),
        (DataLoader(Images(), batch_sampler=[*torch.arange(20).split(3)][::-1]), ["order"]),
        (Batches(Images()), ["batch_size", "batches", "order"]),
    ],
    ids=["sampler", "batch_size", "fewer_images", "reversed", "without_positions"],
)
def test_checkpoint_of_another_loader_is_refused_with_what_differs(interrupted, loader, names):
    message = f"it differs in {names} ".replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(ValueError, match=message):
        like_first().fit(
            loader,
            checkpoint=interrupted / "progress",
            memory_budget=TIGHT["layers"],
            **OPTIONS,
        )


def test_checkpoint_of_batches_as_many_of_another_size_is_refused(tmp_path, every_batch):
    """Nine images in three batches of four, or of three: a position means other images."""
    options = {"checkpoint": tmp_path / "c", "checkpoint_interval": 0}
    stopping = Stopping(9)
    stopping.x, stopping.y = stopping.x[:9], stopping.y[:9]
    with pytest.raises(StoppedError):
        like_first().fit(DataLoader(stopping, 4, shuffle=True), **options)
    with pytest.raises(ValueError, match=r"differs in \['batch_size', 'order'\] \(batch_size: 4"):
        like_first().fit(DataLoader(Images(count=9), 3, shuffle=True), **options)


def test_checkpoint_of_another_method_is_refused(interrupted):
    with pytest.raises(
        ValueError, match=r"differs in \['layers', 'method', 'options', 'settings'\]"
    ):
        KMExAttribution(make_net()).fit(
            DataLoader(Images(), BATCH), checkpoint=interrupted / "progress"
        )


def test_checkpoint_of_another_release_is_refused(interrupted, monkeypatch):
    monkeypatch.setattr("captum_kmex.attributions.fit_subject.__version__", "99")
    with pytest.raises(ValueError, match=r"differs in \['version'\] .*now '99'"):
        fit("layers", "ordered", Images(), interrupted)


def bank_file(path: Path) -> bytes:
    attribution("kmex").fit(DataLoader(Images(), BATCH)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.read_bytes()[:200], "truncated or no safetensors file"),
        (lambda path: path.read_bytes()[:-1], "truncated or no safetensors file"),
        (lambda path: b"", "truncated or no safetensors file"),
        (lambda path: b"notes of mine, " * 99, "truncated or no safetensors file"),
        (bank_file, "is a safetensors file, but no checkpoint of a fit"),
    ],
    ids=["begin", "last_byte", "empty", "foreign", "bank"],
)
def test_damaged_or_foreign_checkpoint_is_refused_with_what_to_do(interrupted, spoil, message):
    path = interrupted / "progress"
    content = spoil(path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{message}.*; .*pass another path"):
        fit("layers", "ordered", Images(), interrupted)
    assert path.read_bytes() == content


def test_missing_folder_is_refused_before_any_work(tmp_path):
    images = Images(tmp_path / "log")
    with pytest.raises(FileNotFoundError, match=r"no folder .* for the checkpoint; create it"):
        fit("kmex", "ordered", images, tmp_path / "nowhere")
    assert images.n_read == 0


def test_folder_as_checkpoint_is_refused_before_any_work(tmp_path):
    (tmp_path / "progress").mkdir()
    images = Images()
    with pytest.raises(ValueError, match="is a folder; give a file in it"):
        fit("kmex", "ordered", images, tmp_path)
    assert images.n_read == 0


# ---------------------------------------------------------------- the file


def test_checkpoint_reads_what_it_saved(tmp_path):
    saved = Checkpoint(tmp_path / "c", {"seed": 1}, 60)
    saved.begin(2, {"a": torch.arange(3)})
    saved.save(7, {"b": torch.rand(2, 2, dtype=torch.float64)})
    found = Checkpoint(tmp_path / "c", {"seed": 1}, 60)
    assert (found.stage, found.position) == (2, 7)
    assert torch.equal(found.common["a"], torch.arange(3))
    assert found.collected["b"].dtype == torch.float64


def test_beginning_a_stage_again_keeps_its_progress(tmp_path):
    saved = Checkpoint(tmp_path / "c", {}, 60)
    saved.begin(1, {"a": torch.zeros(1)})
    saved.save(4, {"b": torch.ones(1)})
    found = Checkpoint(tmp_path / "c", {}, 60)
    found.begin(1, {"a": torch.ones(1)})
    assert (found.position, found.common["a"].item()) == (4, 0)
    found.begin(2, {"a": torch.ones(1)})
    assert (found.stage, found.position, found.collected) == (2, 0, {})


def test_unfinished_files_of_others_are_left_alone(tmp_path):
    mark = "0123456789abcdef" * 2
    others = [f".progress2.{mark}", f".progress.rank1.{mark}", ".progress.notes", "progress2"]
    for name in [*others, f".progress.{mark}"]:
        (tmp_path / name).touch()
    Checkpoint(tmp_path / "progress", {}, 60)
    assert sorted(os.listdir(tmp_path)) == sorted(others)


def test_part_takes_names_under_a_prefix():
    state = {"0.a": torch.zeros(1), "0.b.c": torch.ones(1), "10.a": torch.ones(1)}
    assert sorted(part(state, "0.")) == ["a", "b.c"]


def test_collected_of_a_data_set_of_tensors_is_small(tmp_path, every_batch):
    """The file holds the sample, not what was read."""
    images = Stopping(4 * 50)
    x, y = images.x.repeat(50, 1, 1, 1), images.y.repeat(50)
    sizes = []
    for count in (30, 1000):
        with pytest.raises(StoppedError):
            attribution("kmex").fit(
                Failing(DataLoader(TensorDataset(x[:count], y[:count]), 10)),
                checkpoint=tmp_path / "c",
                checkpoint_interval=0,
                memory_budget=TIGHT["kmex"],
            )
        sizes.append((tmp_path / "c").stat().st_size)
        (tmp_path / "c").unlink()
    n_batches = (1000 - 30) // 10
    assert sizes[1] - sizes[0] <= 32 * n_batches + 64  # a digest a batch, digits of the header


class Failing:
    """Raises after the last batch of a loader."""

    def __init__(self, loader) -> None:
        self.loader = loader

    def __iter__(self):
        yield from self.loader
        raise StoppedError


# ---------------------------------------------------------------- of other data


def changed(**parts: object) -> Images:
    """The images, some of them changed: ``x`` or ``y`` of the n-th, or all in another order."""
    images = Images()
    for name, change in parts.items():
        setattr(images, name, change(getattr(images, name).clone()))
    return images


def at(index: int, value: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor[index] = value(tensor[index])
        return tensor

    return change


OTHER_DATA = {
    "another_data_set": ({"x": lambda x: torch.rand_like(x)}, 1),
    "other_labels": ({"y": lambda y: (y + 1) % 3}, 1),
    "other_preprocessing": ({"x": lambda x: x * 1.01}, 1),
    "other_size": ({"x": lambda x: x[..., :-1]}, 1),
    "other_type": ({"x": lambda x: x.double()}, 1),
    "other_order": ({"x": lambda x: x.flip(0), "y": lambda y: y.flip(0)}, 1),
    "first_image_mirrored": ({"x": at(3, lambda x: x.flip(-1))}, 2),
    "last_image_mirrored": ({"x": at(5, lambda x: x.flip(-1))}, 2),
    "one_label": ({"y": at(6, lambda y: (y + 1) % 3)}, 3),
    "one_bit": ({"x": at(8, lambda x: x.nextafter(x + 1))}, 3),
}
STOPS = {"sample": 11, "refine": N_IMAGES + 11, "patches": 3 * N_IMAGES + 11}


CASES = [("shuffled", "refine", name) for name in OTHER_DATA]
CASES += [
    (loader, stage, name)
    for loader in ("ordered", "batches")
    for stage in STOPS
    for name in ("last_image_mirrored", "one_label")
]


@pytest.mark.parametrize(("loader", "stage", "name"), CASES)
def test_other_data_is_refused_with_the_batch_that_differs(
    tmp_path, every_batch, loader, stage, name
):
    change, batch = OTHER_DATA[name]
    with pytest.raises(StoppedError):
        fit("kmex", loader, Stopping(STOPS[stage]), tmp_path)
    before = (tmp_path / "progress").read_bytes()
    with pytest.raises(ValueError, match=rf"^batch {batch} is not what the checkpoint .* delete"):
        fit("kmex", loader, changed(**change), tmp_path)
    assert (tmp_path / "progress").read_bytes() == before
    fit("kmex", loader, Images(), tmp_path).save(tmp_path / "bank")
    assert (tmp_path / "bank").read_bytes() == expected_bytes("kmex", loader, tmp_path)


@pytest.mark.parametrize("stage", ["refine", "patches"])
def test_data_changed_behind_the_present_batch_is_refused_when_it_comes(
    tmp_path, every_batch, stage
):
    with pytest.raises(StoppedError):
        fit("kmex", "sampler", Stopping(STOPS[stage]), tmp_path)
    images = changed(x=at(ORDER[17], lambda x: x.flip(-1)))
    with pytest.raises(ValueError, match=r"^batch 6 is not"):
        fit("kmex", "sampler", images, tmp_path)


def test_random_augmentation_is_named(tmp_path, every_batch):
    class Augmented(Stopping):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + torch.rand(()), y

    with pytest.raises(StoppedError):
        fit("kmex", "ordered", Augmented(11), tmp_path)
    with pytest.raises(ValueError, match="without random augmentation, which draws other images"):
        fit("kmex", "ordered", Augmented(1000), tmp_path)


def test_batches_that_end_too_soon_are_refused(tmp_path, every_batch):
    with pytest.raises(StoppedError):
        fit("kmex", "batches", Stopping(11), tmp_path)
    with pytest.raises(ValueError, match="the loader ends after batch 2, which is not what"):
        fit("kmex", "batches", Images(count=6), tmp_path)


class Streamed(IterableDataset):
    def __init__(self, images: Images) -> None:
        self.images = images

    def __iter__(self):
        return (self.images[i] for i in range(len(self.images)))


@pytest.mark.parametrize(
    "make",
    [
        lambda images: DataLoader(Streamed(images), BATCH),
        lambda images: list(Batches(images)),
        lambda images: DataLoader(TensorDataset(*zip_batches(images)), batch_size=None),
    ],
    ids=["stream", "list", "data_set_of_batches"],
)
def test_loaders_without_positions_are_compared_as_they_pass(tmp_path, every_batch, make):
    options = {"checkpoint": tmp_path / "c", "checkpoint_interval": 0, "n_init": 1}
    with pytest.raises(StoppedError):
        attribution("kmex").fit(Cut(make(Images()), 4), **options)
    other = changed(x=at(8, lambda x: x.flip(-1)))
    with pytest.raises(ValueError, match=r"^batch 3 is not what"):
        attribution("kmex").fit(Cut(make(other), 99), **options)
    found = attribution("kmex").fit(Cut(make(Images()), 99), **options).bank_
    expected = attribution("kmex").fit(make(Images()), n_init=1).bank_
    assert torch.equal(found.codebooks[0].centroids, expected.codebooks[0].centroids)


class Short(Streamed):
    """Says that it is shorter than it is, as streams of several workers do."""

    def __len__(self) -> int:
        return 3


def test_stream_longer_than_it_says_goes_on(tmp_path, every_batch):
    options = {"checkpoint": tmp_path / "c", "checkpoint_interval": 0, "n_init": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(StoppedError):
            attribution("kmex").fit(DataLoader(Short(Stopping(14)), BATCH), **options)
        found = attribution("kmex").fit(DataLoader(Short(Images()), BATCH), **options)
    assert found.bank_.provenance["n_images"] == N_IMAGES


def zip_batches(images: Images) -> tuple[Tensor, Tensor]:
    """Images and labels in six whole batches."""
    return images.x[:18].unflatten(0, (6, 3)), images.y[:18].unflatten(0, (6, 3))


class Cut:
    """Raises after the n-th batch of a loader."""

    def __init__(self, loader, count: int) -> None:
        self.loader, self.count = loader, count

    def __iter__(self):
        for number, batch in enumerate(self.loader):
            if number == self.count:
                raise StoppedError
            yield batch


def test_images_padded_to_the_largest_of_their_batch_are_the_same(tmp_path, every_batch):
    """The first and the last alone would be padded otherwise."""

    def padded(items):
        side = max(12 + index % 3 for index, _ in items)
        x = torch.stack([nn.functional.pad(images.x[i], (0, 0, 0, side - 12)) for i, _ in items])
        return x, torch.stack([y for _, y in items])

    class Numbered(Stopping):
        def __getitem__(self, index):
            return index, super().__getitem__(index)[1]

    images = Images()
    options = {"checkpoint": tmp_path / "c", "checkpoint_interval": 0, "n_init": 1}
    with pytest.raises(StoppedError):
        attribution("kmex").fit(DataLoader(Numbered(11), BATCH, collate_fn=padded), **options)
    found = attribution("kmex").fit(DataLoader(Numbered(1000), BATCH, collate_fn=padded), **options)
    assert found.bank_.provenance["n_images"] == N_IMAGES


# ---------------------------------------------------------------- of a fit that still runs


class Meeting(Images):
    """At the n-th reading starts another fit with the same checkpoint."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__()
        self.folder, self.name, self.message = folder, name, ""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.n_read == 11:
            loader = DataLoader(Images(), BATCH)
            with pytest.raises(ValueError, match="another fit that still runs") as caught:
                attribution("kmex").fit(loader, checkpoint=self.folder / self.name)
            self.message = str(caught.value)
        return super().__getitem__(index)


@pytest.mark.parametrize("name", ["progress", "../here/progress"])
def test_second_fit_with_a_checkpoint_in_use_is_refused(tmp_path, every_batch, name):
    folder = tmp_path / "here"
    folder.mkdir()
    images = Meeting(folder, name)
    fit("layers", "ordered", images, folder).save(folder / "bank")
    assert "wait for it to end, or pass another path" in images.message
    assert (folder / "bank").read_bytes() == expected_bytes("layers", "ordered", folder)
    assert sorted(os.listdir(folder)) == ["bank", "expected"]


@needs_processes
def test_checkpoint_in_use_by_another_process_is_refused_until_it_is_killed(tmp_path):
    process = start(fit_and_save, "layers", "ordered", tmp_path, None, 50 * N_IMAGES)
    while not (tmp_path / "progress").exists() and process.is_alive():
        process.join(0.01)
    with pytest.raises(ValueError, match="another fit that still runs uses the checkpoint"):
        fit("layers", "ordered", Images(count=50 * N_IMAGES), tmp_path)
    process.kill()
    assert finish(process) == KILLED
    images = Stopping(2)
    images.x, images.y = Images(count=50 * N_IMAGES).x, Images(count=50 * N_IMAGES).y
    with pytest.raises(StoppedError):  # it goes on, and reads
        fit("layers", "ordered", images, tmp_path)


def test_checkpoint_is_free_after_an_error(tmp_path, every_batch):
    for _ in range(2):
        with pytest.raises(StoppedError):
            fit("kmex", "ordered", Stopping(5), tmp_path, checkpoint_interval=1000)
    assert os.listdir(tmp_path) == []
