"""A fit on several machines: processes of a gloo group, each with its part of the images."""

from __future__ import annotations

import os
import re
import signal
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from processes import finish, needs_processes, start
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset, TensorDataset

from captum_kmex import KMExAttribution, LayerKMeansAttribution, PrototypeBank
from captum_kmex._version import __version__
from captum_kmex.bank.prototype_bank import Codebook
from captum_kmex.distributed import (
    add_up,
    check_alike,
    gather,
    gather_to,
    rank,
    together,
    world_size,
)
from captum_kmex.fitting import checkpoint

pytestmark = [
    needs_processes,
    pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed"),
]

N_CLASSES, N_IMAGES, BATCH = 3, 41, 4  # 41 is divided by neither 2 nor 4
KILLED = -9  # by SIGKILL


# ---------------------------------------------------------------- a group of processes


def in_group(function, size: int, folder: Path, *arguments) -> list[int]:
    """Call ``function(folder, *arguments)`` on every rank and return the exit codes."""
    store = folder / f"store{len(list(folder.glob('store*')))}"
    group = [
        start(as_rank, number, size, store, function, folder, arguments) for number in range(size)
    ]
    return [finish(process) for process in group]


def as_rank(number, size, store, function, folder, arguments) -> None:
    warnings.simplefilter("ignore")
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(str(store), size),
        rank=number,
        world_size=size,
        timeout=timedelta(seconds=30),
    )
    function(folder, *arguments)
    dist.destroy_process_group()


class Blobs(Dataset):
    """Images of two colours a class, so that every depth has clear clusters."""

    def __init__(self, count: int = N_IMAGES) -> None:
        generator = torch.Generator().manual_seed(5)
        self.y = torch.arange(count) % N_CLASSES
        kind = torch.arange(count) // N_CLASSES % 2
        colours = torch.randn(N_CLASSES, 2, 3, generator=generator)
        colours[:, 1] = -colours[:, 0]
        noise = 0.1 * torch.randn(count, 3, 8, 6, generator=generator)
        self.x = colours[self.y, kind][..., None, None] + noise

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]


class Colours(nn.Module):
    """Reads colours pixel by pixel; its tail is linear, or such that a surrogate is needed."""

    def __init__(self, is_linear: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stage2 = nn.Sequential(nn.Conv2d(3, 12, 1, 2), nn.ReLU())
        self.stage3 = nn.Sequential(nn.Conv2d(12, 16, 1), nn.ReLU())
        self.norm = nn.Identity() if is_linear else nn.LayerNorm(16)
        self.head = nn.Linear(16, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stage3(self.stage2(x)).mean((2, 3))))


def attribution(kind: str):
    model = Colours(kind != "ridge").eval()
    if kind == "kmex":
        return KMExAttribution(model, "stage3", n_prototypes=2)
    return LayerKMeansAttribution(model, ["stage2", "stage3"], n_prototypes=2)


KINDS = ("kmex", "layers", "ridge")
# not all rows fit, so that samples are merged and the embeddings' are weighted
OPTIONS = {
    "kmex": {"memory_budget": 2400, "n_init": 3, "patch_search": "exact"},
    "layers": {"memory_budget": 20_000, "n_init": 3, "patch_search": "exact"},
    "ridge": {"memory_budget": 20_000, "n_init": 3},  # patches from the sample
}


def fit(kind: str, loader, **options) -> PrototypeBank:
    options = OPTIONS[kind] | {"n_representatives": 3, "refine": 1} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return attribution(kind).fit(loader, **options).bank_


# ---------------------------------------------------------------- ways to divide the images


def sampled(dataset, shuffle: bool = False) -> DataLoader:
    sampler = DistributedSampler(dataset, shuffle=shuffle)
    return DataLoader(dataset, BATCH, sampler=sampler)


def own_indices(how: str) -> list[int]:
    everyone, size, number = range(N_IMAGES), dist.get_world_size(), dist.get_rank()
    if how == "turns":
        return list(everyone[number::size])
    if how == "one_empty":  # all but the last rank share the images
        return list(everyone[number :: size - 1]) if number < size - 1 else []
    by_class = sorted(everyone, key=lambda i: (i + 1) % N_CLASSES)  # no rank owns its classes
    return by_class[number * N_IMAGES // size : (number + 1) * N_IMAGES // size]


def subset(how: str, dataset) -> DataLoader:
    return DataLoader(Subset(dataset, own_indices(how)), BATCH, shuffle=how == "classes")


def batches(dataset) -> list[tuple[Tensor, Tensor]]:
    return list(DataLoader(Subset(dataset, own_indices("turns")), BATCH))


LOADERS = {
    "sampler": sampled,
    "shuffled": partial(sampled, shuffle=True),
    "turns": partial(subset, "turns"),
    "classes": partial(subset, "classes"),
    "one_empty": partial(subset, "one_empty"),
    "batches": batches,
}


def save_fits(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        for kind in KINDS:
            bank = fit(kind, LOADERS[name](Blobs()))
            bank.save(folder / f"{name}.{kind}.{dist.get_rank()}")


# two ranks divide the images in all ways; one has nothing to divide, and four cost twice as much
NAMES = {
    1: ("sampler", "shuffled"),
    2: tuple(LOADERS),
    4: ("shuffled", "classes", "one_empty"),
}


class Groups(dict[int, Path]):
    """Folders with the banks of every rank, by size of the group, fitted when asked for."""

    def __init__(self, make_folder: Callable[[str], Path]) -> None:
        super().__init__()
        self.make_folder = make_folder

    def __missing__(self, size: int) -> Path:
        folder = self[size] = self.make_folder(f"group{size}")
        assert in_group(save_fits, size, folder, NAMES[size]) == [0] * size
        return folder


@pytest.fixture(scope="module")
def fits(tmp_path_factory) -> Groups:
    return Groups(tmp_path_factory.mktemp)


@pytest.fixture(scope="module")
def alone() -> dict[str, PrototypeBank]:
    """Banks of a single process that reads everything."""
    return {kind: fit(kind, DataLoader(Blobs(), BATCH)) for kind in KINDS}


def divided(*names: str) -> pytest.MarkDecorator:
    """Parametrise by the sizes of groups and, of these names, those that a size has."""
    found = [(size, name) for size in NAMES for name in NAMES[size] if name in (names or LOADERS)]
    cases = [
        pytest.param(size, name, marks=[] if size == 2 else pytest.mark.slow)
        for size, name in found
    ]
    return pytest.mark.parametrize(("size", "name"), cases)


kinds = pytest.mark.parametrize("kind", KINDS)


def rows(kind: str, depth: int) -> Tensor:
    """All rows (N, P, D) of the data set, the long way."""
    model, x = attribution(kind).model, Blobs().x
    with torch.no_grad():
        first = model.stage2(x)
        second = model.stage3(first)
    if kind == "kmex":
        return second.mean((2, 3))[:, None]
    blocks = [second] if depth else [first, second]
    unit = [block / block.norm(dim=1, keepdim=True).clamp_min(1e-7) for block in blocks]
    return torch.cat(unit, 1).flatten(2).transpose(1, 2)


def nearest(kind: str, depth: int, book: Codebook) -> Tensor:
    """Distances (K, 3) of each prototype to the images of its class that are nearest to it."""
    everyone, found = rows(kind, depth), []
    for centroid, c in zip(book.centroids, book.membership, strict=True):
        own = everyone[Blobs().y == c]
        found.append((own - centroid).norm(dim=2).amin(1).sort().values[:3])
    return torch.stack(found)


def inertia(bank: PrototypeBank, kind: str) -> float:
    total = 0.0
    for depth, book in enumerate(bank.codebooks):
        everyone = rows(kind, depth)
        for c in range(N_CLASSES):
            own = everyone[Blobs().y == c].flatten(0, 1).double()
            total += float(
                torch.cdist(own, book.centroids[book.of_class(c)].double()).amin(1).square().sum()
            )
    return total


@kinds
@divided()
def test_every_rank_ends_with_the_same_bytes(fits, size, name, kind):
    files = [(fits[size] / f"{name}.{kind}.{number}").read_bytes() for number in range(size)]
    assert files == [files[0]] * size


@kinds
@divided()
def test_inertia_is_that_of_a_single_process(fits, alone, size, name, kind):
    bank = PrototypeBank.load(fits[size] / f"{name}.{kind}.0")
    assert inertia(bank, kind) == pytest.approx(inertia(alone[kind], kind), rel=1e-3)


@kinds
@divided("sampler", "shuffled")
def test_bank_of_a_shared_data_set_is_that_of_a_single_process(fits, alone, size, name, kind):
    bank = PrototypeBank.load(fits[size] / f"{name}.{kind}.0")
    for ours, theirs in zip(bank.codebooks, alone[kind].codebooks, strict=True):
        assert torch.equal(ours.membership, theirs.membership)
        assert torch.equal(ours.counts, theirs.counts)
        assert torch.allclose(ours.centroids, theirs.centroids, atol=1e-5)
        assert torch.allclose(ours.spread, theirs.spread, atol=1e-5)
        assert torch.equal(ours.representatives.indices, theirs.representatives.indices)
        assert torch.equal(ours.representatives.boxes, theirs.representatives.boxes)


@kinds
@divided("sampler", "shuffled", "turns", "classes", "one_empty")
def test_patches_are_those_of_a_single_process(fits, alone, size, name, kind):
    """Positions in the data set where the ranks share it, distances everywhere."""
    bank = PrototypeBank.load(fits[size] / f"{name}.{kind}.0")
    # other positions are another sample, among which patches are near, not the nearest
    is_same = OPTIONS[kind].get("patch_search") == "exact" or name not in ("classes", "one_empty")
    for depth, (ours, theirs) in enumerate(zip(bank.codebooks, alone[kind].codebooks, strict=True)):
        mine, other = ours.representatives, theirs.representatives
        order = torch.cdist(ours.centroids, theirs.centroids).argmin(1)
        # squared distances are rounded to 1e-6, and their roots to half as many digits
        if is_same:
            assert torch.allclose(mine.distances, other.distances[order], atol=1e-3)
        assert (mine.distances >= nearest(kind, depth, ours) - 1e-3).all()
        if name in ("sampler", "shuffled"):
            own = Blobs().y[mine.indices]
            assert torch.equal(own, ours.membership[:, None].expand_as(own))
        assert all(len(set(row)) == 3 for row in mine.indices.tolist())


@kinds
@divided()
def test_images_are_counted_once(fits, alone, size, name, kind):
    bank = PrototypeBank.load(fits[size] / f"{name}.{kind}.0")
    for figure in ("n_images", "rows_seen", "rows_kept"):
        assert bank.provenance[figure] == alone[kind].provenance[figure]
    assert bank.input_range == alone[kind].input_range
    for ours, theirs in zip(bank.codebooks, alone[kind].codebooks, strict=True):
        assert sum(ours.counts.tolist()) == sum(theirs.counts.tolist())


@divided()
def test_surrogate_is_that_of_a_single_process(fits, alone, size, name):
    ours = PrototypeBank.load(fits[size] / f"{name}.ridge.0").surrogate
    theirs = alone["ridge"].surrogate
    assert torch.allclose(ours.columns, theirs.columns, atol=1e-5)
    assert ours.r2 == pytest.approx(theirs.r2, rel=1e-9)


# ---------------------------------------------------------------- the sample itself


def save_samples(folder: Path) -> None:
    from captum_kmex.fitting import run

    solve = run.solve

    def kept(collection, *arguments):
        for depth, sample in enumerate(collection.samples):
            for c in range(N_CLASSES):
                if sample.kept(c):
                    rows, weights = sample.rows(c)
                    found = {"keys": rows.keys, "rows": rows.rows, "weights": weights}
                    torch.save(found, folder / f"{kind}.{name}.{depth}.{c}")
        return solve(collection, *arguments)

    run.solve = kept
    for kind in ("kmex", "layers"):
        for name in LOADERS if world_size() > 1 else ["alone"]:
            loader = LOADERS[name] if name in LOADERS else partial(DataLoader, batch_size=BATCH)
            fit(kind, loader(Blobs()), refine=0, n_representatives=0)
    run.solve = solve


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    save_samples(folder)
    assert in_group(save_samples, 3, folder) == [0] * 3
    return folder


@pytest.mark.parametrize("name", ["sampler", "shuffled"])
@pytest.mark.parametrize("kind", ["kmex", "layers"])
def test_sample_of_a_shared_data_set_is_that_of_a_single_process(samples, kind, name):
    for depth in range(1 if kind == "kmex" else 2):
        for c in range(N_CLASSES):
            ours, theirs = (
                torch.load(samples / f"{kind}.{which}.{depth}.{c}") for which in (name, "alone")
            )
            assert torch.equal(ours["keys"], theirs["keys"])
            assert torch.allclose(ours["rows"], theirs["rows"], atol=1e-6)
            if kind == "kmex":
                assert torch.allclose(ours["weights"], theirs["weights"])


@pytest.mark.parametrize("name", ["turns", "classes", "one_empty", "batches"])
def test_weights_of_own_shards_stand_for_all_rows(samples, name):
    """Chances of one would add up to the rows kept."""
    for c in range(N_CLASSES):
        found = torch.load(samples / f"kmex.{name}.0.{c}")
        n_rows = int((Blobs().y == c).sum())
        assert len(found["keys"]) == 10 < n_rows
        assert found["weights"].min() >= 1
        # of so few rows the thresholds are those kept last, and chances come out too small
        assert 10 < found["weights"].sum() < 2 * n_rows


# ---------------------------------------------------------------- errors reach every rank


def note_error(folder: Path, name: str, make_loader, **options) -> None:
    message = "none"
    try:
        fit("layers", make_loader(), **options)
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
    (folder / f"{name}.{dist.get_rank()}").write_text(message)


def images(count: int = 9, **changes: object) -> TensorDataset:
    blobs = Blobs(count)
    return TensorDataset(changes.get("x", blobs.x), changes.get("y", blobs.y))


class Broken(Blobs):
    """Cannot read its fifth image."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == 4:
            raise OSError("image 4 is damaged")
        return super().__getitem__(index)


def save_errors(folder: Path) -> None:
    number = dist.get_rank()
    own = DataLoader(Subset(Blobs(), own_indices("turns")), BATCH)
    note_error(folder, "plain", lambda: DataLoader(Blobs(), BATCH, shuffle=True))
    missing = images(y=torch.zeros(9, dtype=torch.int64))
    note_error(folder, "missing", lambda: sampled(missing))
    wrong = torch.arange(9) + 9 * number
    note_error(folder, "label", lambda: [(Blobs(9).x, wrong if number else wrong % 3)])
    note_error(folder, "image", lambda: subset("turns", Broken()))
    note_error(folder, "nothing", list)
    path = folder / ("there" if number else "nowhere") / "progress"
    note_error(folder, "folder", lambda: own, checkpoint=path)
    damaged = folder / f"damaged.rank{number}"
    damaged.write_bytes(b"" if number else b"nonsense")
    path = folder / "damaged"
    if number == 0:
        damaged.unlink()
    note_error(folder, "damaged", lambda: own, checkpoint=path)
    full(number)
    note_error(folder, "full", lambda: own, checkpoint=folder / "full", checkpoint_interval=0)


def full(number: int) -> None:
    real = os.replace

    def replace(source, target):
        if number == 1 and "full" in str(target):
            raise OSError(28, "No space left on device")
        real(source, target)

    os.replace = replace


@pytest.fixture(scope="module")
def errors(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("errors")
    (folder / "there").mkdir()
    assert in_group(save_errors, 2, folder) == [0, 0]
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plain", "ValueError: 2 machines read data sets that begin with the same image"),
        ("plain", "sampler=DistributedSampler(dataset, shuffle=False)"),
        ("missing", "ValueError: 2 of 3 classes without samples (the first: [1, 2])"),
        ("nothing", "ValueError: the loader yielded no batch"),
    ],
)
def test_error_of_the_whole_group_is_raised_on_all_ranks(errors, name, message):
    for number in range(2):
        assert message in (errors / f"{name}.{number}").read_text()


@pytest.mark.parametrize(
    ("name", "failing", "message"),
    [
        ("label", 1, "ValueError: label 9 is out of range for 3 logits"),
        ("image", 0, "OSError: image 4 is damaged"),
        ("folder", 0, "FileNotFoundError: no folder"),
        ("damaged", 1, "ValueError: "),
        ("full", 1, "OSError: [Errno 28] No space left on device"),
    ],
)
def test_error_of_one_rank_stops_the_others(errors, name, failing, message):
    own = (errors / f"{name}.{failing}").read_text()
    other = (errors / f"{name}.{1 - failing}").read_text()
    assert own.startswith(message)
    assert other.startswith(f"RuntimeError: the fit failed on rank {failing} of 2 ({own[:40]}")


# ---------------------------------------------------------------- ranks that differ


def shifted(model: nn.Module) -> None:
    with torch.no_grad():
        model.head.bias[0] += 1e-3


def own(changes: dict[str, object], name: str, usual: object) -> object:
    return changes.get(name, usual) if dist.get_rank() == 1 else usual


DIFFERENCES: dict[str, tuple[dict[str, object], str]] = {
    "weights": ({"model": shifted}, r"model \('\w+\.\.\. on rank 0, '\w+\.\.\. on rank 1\)"),
    "layers": ({"layers": ["stage3"]}, r"layers \(\['stage2', 'stage3'\] on rank 0, "),
    "seed": ({"seed": 3}, r"options.seed \(0 on rank 0, 3 on rank 1\); settings.seed"),
    "prototypes": ({"n_prototypes": 3}, r"options.n_prototypes \(2 on rank 0, 3 on rank 1\)"),
    "by_class": ({"n_prototypes": {0: 1, 1: 1, 2: 1}}, r"options.n_prototypes.0 \(nothing on"),
    "weighting": ({"weighting": "dimension"}, r"settings.weighting \(None on rank 0, 'dimension'"),
    "vote": ({"vote": "share"}, r"settings.vote \('distance' on rank 0, 'share' on rank 1\)"),
    "budget": ({"memory_budget": 10**6}, r"options.memory_budget \(20000 on rank 0, 1000000 on"),
    "refine": ({"refine": 2}, r"options.refine \(1 on rank 0, 2 on rank 1\)"),
    "patches": ({"n_representatives": 0}, r"options.n_representatives \(3 on rank 0, 0 on rank"),
    "labels": ({"labels": "predicted"}, r"options.labels \('target' on rank 0, 'predicted' on"),
    "classes": ({"classes": [0, 1]}, r"options.classes \(None on rank 0, \[0, 1\] on rank 1\)"),
    "side": ({"attribute_to_layer_input": True}, r"at_input \(False on rank 0, True on rank 1\)"),
    "release": ({"version": "99"}, r"version \('[\d.]+' on rank 0, '99' on rank 1\)"),
    "method": ({"method": True}, r"method \('LayerKMeansAttribution' on rank 0, 'KMExAttr"),
    "size": ({"count": 40}, r"data.size \(41 on rank 0, 40 on rank 1\)"),
    "loader": ({"loader": list}, r"data.is shared \(True on rank 0, False on rank 1\)"),
    "once": ({"loader": iter}, r"data.can be read again \(True on rank 0, False on rank 1\)"),
}
FIT = {"n_init": 3, "refine": 1, "n_representatives": 3, "memory_budget": 20_000}
FIT |= {"labels": "target", "classes": None, "attribute_to_layer_input": False}


def differing(changes: dict[str, object]) -> None:
    """Fit, on rank 1 with changes."""
    model = Colours(True).eval()
    own(changes, "model", lambda _: None)(model)
    layers = own(changes, "layers", ["stage2", "stage3"])
    names = {"n_prototypes": 2, "seed": 0, "weighting": None, "vote": "distance"}
    options = {name: own(changes, name, usual) for name, usual in names.items()}
    attr = LayerKMeansAttribution(model, layers, **options)
    if own(changes, "method", False):
        attr = KMExAttribution(model, "stage3", n_prototypes=2)
    loader = own(changes, "loader", lambda found: found)(sampled(Blobs(own(changes, "count", 41))))
    options = {name: own(changes, name, usual) for name, usual in FIT.items()}
    with mock.patch(
        "captum_kmex.attributions.fit_subject.__version__",
        own(changes, "version", __version__),
    ):
        attr.fit(loader, **options)


def note_differences(folder: Path) -> None:
    for name, (changes, _) in DIFFERENCES.items():
        message = "none"
        try:
            differing(changes)
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
        (folder / f"{name}.{dist.get_rank()}").write_text(message)
    note_error(folder, "option", lambda: sampled(Blobs()), n_init=own({"n_init": 0}, "n_init", 1))
    differing({})  # still in step


@pytest.fixture(scope="module")
def differences(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("differences")
    assert in_group(note_differences, 2, folder) == [0, 0]
    return folder


@pytest.mark.parametrize("name", DIFFERENCES)
def test_ranks_that_differ_are_refused_on_all_with_what_and_where(differences, name):
    found = [(differences / f"{name}.{number}").read_text() for number in range(2)]
    assert found[0] == found[1]
    assert found[0].startswith("ValueError: the ranks of this fit differ in ")
    assert re.search(DIFFERENCES[name][1], found[0]), found[0]
    assert "Give all ranks the same" in found[0]


def test_option_that_one_rank_refuses_stops_the_others(differences):
    ours, theirs = ((differences / f"option.{number}").read_text() for number in (1, 0))
    assert ours.startswith("ValueError: n_init")
    assert theirs.startswith("RuntimeError: the fit failed on rank 1 of 2 (ValueError: n_init")


def test_ranks_are_grouped_by_value(monkeypatch):
    everyone = [{"a": "1", "b.c": "2"}, {"a": "1"}, {"a": "3", "b.c": "2"}, {"a": "1", "b.c": "2"}]
    monkeypatch.setattr("captum_kmex.distributed.gather", lambda own: [own, *everyone[1:]])
    message = (
        r"differ in a \(1 on ranks 0, 1, 3, 3 on rank 2\); b.c \(2 on ranks 0, 2, 3, nothing on"
    )
    with pytest.raises(ValueError, match=message):
        check_alike({"a": 1, "b": {"c": 2}})


# ---------------------------------------------------------------- checkpoints


class Killing(Blobs):
    """Kills its own process at the n-th reading."""

    def __init__(self, kill_at: int | None) -> None:
        super().__init__()
        self.kill_at, self.n_read = kill_at, 0

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.n_read += 1
        if self.n_read == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def save_killed(folder: Path, kind: str, moments: list[int | None]) -> None:
    checkpoint._SHARE = 0
    os.fsync = int  # a kill is no loss of power
    loader = sampled(Killing(moments[dist.get_rank()]))
    options = {"checkpoint": folder / "progress", "checkpoint_interval": 0}
    fit(kind, loader, **options).save(folder / f"bank.{dist.get_rank()}")


# 41 images make 21 a rank and pass
@pytest.mark.parametrize(
    ("kind", "moments"),
    [
        pytest.param(kind, moments, id=f"{stage}-{kind}")
        for kind in ("kmex", "layers", "ridge")
        for stage, moments in {"sample": (5, 9), "refine": (30, 25), "patches": (60, 55)}.items()
        if (kind, stage) != ("ridge", "patches")  # which has no pass of its own for them
    ],
)
@pytest.mark.slow
def test_group_killed_in_any_stage_ends_with_the_same_bank(fits, tmp_path, kind, moments):
    assert in_group(save_killed, 2, tmp_path, kind, moments) == [KILLED, KILLED]
    assert sorted(path.name for path in tmp_path.glob("progress*")) == [
        "progress.rank0",
        "progress.rank1",
    ]
    assert in_group(save_killed, 2, tmp_path, kind, [None, None]) == [0, 0]
    for number in range(2):
        expected = (fits[2] / f"sampler.{kind}.{number}").read_bytes()
        assert (tmp_path / f"bank.{number}").read_bytes() == expected
    assert not list(tmp_path.glob("*progress*"))


@pytest.mark.parametrize(("kind", "behind"), [("layers", 0), ("layers", 1), ("ridge", 1)])
@pytest.mark.slow
def test_rank_a_stage_behind_catches_up(fits, tmp_path, kind, behind):
    assert in_group(save_killed, 2, tmp_path, kind, [15, 15]) == [KILLED, KILLED]
    old = (tmp_path / f"progress.rank{behind}").read_bytes()
    assert in_group(save_killed, 2, tmp_path, kind, [25, 25]) == [KILLED, KILLED]
    (tmp_path / f"progress.rank{behind}").write_bytes(old)
    assert in_group(save_killed, 2, tmp_path, kind, [None, None]) == [0, 0]
    for number in range(2):
        expected = (fits[2] / f"sampler.{kind}.{number}").read_bytes()
        assert (tmp_path / f"bank.{number}").read_bytes() == expected


def note_other_size(folder: Path) -> None:
    options = {"checkpoint": folder / "progress"}
    note_error(folder, "other", lambda: sampled(Blobs()), **options)


def test_checkpoints_of_a_smaller_group_are_refused_on_all_ranks(tmp_path):
    assert in_group(save_killed, 2, tmp_path, "layers", [9, 9]) == [KILLED, KILLED]
    assert in_group(note_other_size, 3, tmp_path) == [0] * 3
    found = [(tmp_path / f"other.{number}").read_text() for number in range(3)]
    assert all("'machines'" in text and "belongs to another fit" in text for text in found[:2])
    assert "RuntimeError: the fit failed on rank 0 of 3" in found[2]


# ---------------------------------------------------------------- what ranks tell each other


def check_messages(folder: Path) -> None:
    size, number = dist.get_world_size(), dist.get_rank()
    assert (world_size(), rank()) == (size, number)
    assert gather(f"from {number}") == [f"from {n}" for n in range(size)]
    assert gather_to(1, number) == (list(range(size)) if number == 1 else [])
    mine = torch.tensor([number + 1, 0.5], dtype=torch.float64)
    assert add_up(mine).tolist() == [sum(range(1, size + 1)), size / 2]
    assert mine.tolist() == [number + 1, 0.5]  # left as it was
    with together():
        pass
    expected = KeyError if number == 2 else RuntimeError
    with pytest.raises(expected, match="lost"), together():
        raise_on_rank(2)
    assert gather(number) == list(range(size))  # still in step


def raise_on_rank(number: int) -> None:
    if dist.get_rank() == number:
        raise KeyError("lost")


def test_messages_reach_every_rank(tmp_path):
    assert in_group(check_messages, 3, tmp_path) == [0] * 3


def test_alone_nothing_is_sent():
    assert (world_size(), rank()) == (1, 0)
    assert gather("x") == gather_to(0, "x") == ["x"]
    ones = torch.ones(2)
    assert add_up(ones) is ones


def test_alone_an_error_passes_as_it_is():
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught, together():
        raise error
    assert caught.value is error
