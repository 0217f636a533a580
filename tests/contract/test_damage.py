"""Damaged banks and checkpoints: read as they were written, or refused by one clean error."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from nets import make_net
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_kmex import KMExAttribution, LayerKMeansAttribution, PrototypeBank
from captum_kmex.bank import prototype_bank
from captum_kmex.files.tensor_file import _checksum
from captum_kmex.fitting import checkpoint

pytestmark = [
    pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning"),
    pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.UncheckedFileWarning"),
]

FEW, SOME, MANY = 400, 2_000, 20_000
SHARE_OF_BANKS = 0.7
SHARE_USED = 0.25
VALUES = (None, True, False, 0, 1, -1, 2, 10**9, 2**63, 10**30, 0.5, -0.5, float("nan"))
VALUES += (float("inf"), "", "x", "0", "KMExAttribution", [], {}, [1], [[1, 2]], {"a": 1}, [None])
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)
DTYPES += (torch.uint8, torch.bool)
NUMBERS = (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e30, 7.0)


class Headless(nn.Module):
    """Its logits are no affine function of a map, so that a ridge surrogate is fitted."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stage2 = nn.Sequential(nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU())
        self.stage3 = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
        self.tail = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.stage3(self.stage2(x)).mean((2, 3)))


def data(count: int = 10) -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    return TensorDataset(torch.rand(count, 1, 8, 8, generator=generator), torch.arange(count) % 3)


# ---------------------------------------------------------------- files to damage


@dataclass(frozen=True)
class Subject:
    """A whole file, and how it is read."""

    content: bytes
    name: str
    read: Callable[[Path], tuple[dict[str, Tensor], dict[str, object]]]
    use: Callable[[Path], object]


def make(kind: str, **options):
    if kind == "kmex":
        return KMExAttribution(make_net(), n_prototypes=options.pop("n_prototypes", 1))
    return LayerKMeansAttribution(
        Headless().eval(), ["stage2", "stage3"], n_prototypes={0: 1, 1: 2, 2: 1}
    )


FIT = {"n_init": 1, "refine": 1, "n_representatives": 2}


def read_bank(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    found = PrototypeBank.load(path)
    return prototype_bank._tensors(found), json.loads(json.dumps(prototype_bank._header(found)))


def bank_subject(kind: str, folder: Path, labels="target") -> Subject:
    attribution = make(kind)
    if labels is None:
        attribution.n_prototypes = 2
    attribution.fit(DataLoader(data(), 5), labels=labels, **FIT).save(folder / "bank")

    def use(path: Path) -> object:
        loaded = type(attribution).load(path, attribution.model, strict=False)
        return loaded.predict(data().tensors[0])

    return Subject((folder / "bank").read_bytes(), "captum_kmex", read_bank, use)


class StoppedError(Exception):
    pass


class Stopping(TensorDataset):
    """Raises at the n-th reading."""

    def __init__(self, stop_at: int) -> None:
        super().__init__(*data().tensors)
        self.left = stop_at

    def __getitem__(self, index):
        self.left -= 1
        if not self.left:
            raise StoppedError
        return super().__getitem__(index)


def checkpoint_subject(kind: str, search: str, stop_at: int, folder: Path) -> Subject:
    path, seen = folder / "progress", []

    def fit(path: Path, dataset: TensorDataset):
        options = FIT | {"checkpoint": path, "checkpoint_interval": 0, "patch_search": search}
        return make(kind).fit(DataLoader(dataset, 3), **options)

    def note(self, *arguments):
        seen[:] = [arguments]
        return init(self, *arguments)

    init = checkpoint.Checkpoint.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_SHARE", 0)
        patch.setattr(checkpoint.Checkpoint, "__init__", note)
        with pytest.raises(StoppedError):
            fit(path, Stopping(stop_at))
    content, (_, identity, interval, check) = path.read_bytes(), seen[0]
    path.unlink()

    def read(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
        found = checkpoint.Checkpoint(path, identity, interval, check)
        tensors = {f"common.{name}": tensor for name, tensor in found.common.items()}
        tensors |= {f"collected.{name}": tensor for name, tensor in found.collected.items()}
        header = {"identity": identity, "stage": found.stage, "position": found.position}
        return tensors | {"marks": found.marks.state()}, header | {"schema_version": 2}

    return Subject(content, "captum_kmex_checkpoint", read, lambda path: fit(path, data()))


@pytest.fixture(scope="module")
def subjects(tmp_path_factory) -> tuple[list[Subject], list[Subject]]:
    """Banks of three kinds, and checkpoints in each stage of a fit."""
    folder = tmp_path_factory.mktemp("whole")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        banks = [bank_subject(kind, folder) for kind in ("layers", "kmex")]
        banks.append(bank_subject("layers", folder, labels=None))
        checkpoints = [
            checkpoint_subject(kind, search, stop_at, folder)
            for kind in ("layers", "kmex")
            for search, moments in (("exact", (5, 10, 15, 20, 25)), ("sample", (5, 20)))
            for stop_at in moments
        ]
    return banks, checkpoints


# ---------------------------------------------------------------- ways to damage them


def raw(content: bytes, draw: random.Random) -> bytes:
    """Damage bytes anywhere, more often in the header than its share."""
    header = 8 + int.from_bytes(content[:8], "little")
    place = draw.choice([draw.randrange(8), draw.randrange(header), draw.randrange(len(content))])
    other, size = draw.randrange(len(content)), draw.randrange(1, 40)
    return draw.choice(
        [
            lambda: (
                content[:place]
                + bytes([content[place] ^ 1 << draw.randrange(8)])
                + content[place + 1 :]
            ),
            lambda: content[:place],
            lambda: content[: -draw.randrange(1, 20)],
            lambda: content + draw.randbytes(size),
            lambda: content[:place] + draw.randbytes(size) + content[place + size :],
            lambda: content[:place] + bytes(size) + content[place + size :],
            lambda: content[:place] + content[place + size :],
            lambda: content[:place] + draw.randbytes(size) + content[place:],
            lambda: content[:place] + content[other : other + size] + content[place + size :],
        ]
    )()


def edit_tensors(tensors: dict[str, Tensor], draw: random.Random) -> None:
    name, other = draw.choice(sorted(tensors)), draw.choice(sorted(tensors))
    tensor = tensors[name]
    at = draw.randrange(max(1, tensor.numel()))

    def put(value: float) -> Tensor:
        changed = tensor.clone().flatten()
        is_float = tensor.is_floating_point()
        changed[at : at + 1] = (
            value if is_float else int(min(abs(value), 9)) if value == value else -9
        )
        return changed.view(tensor.shape)

    made = draw.choice(
        [
            lambda: tensor.to(draw.choice(DTYPES)),
            lambda: put(draw.choice(NUMBERS)),
            lambda: put(float(draw.randrange(-3, 5))),
            lambda: tensor[:-1] if tensor.ndim else tensor[None],
            lambda: tensor[..., :-1] if tensor.ndim else tensor[None],
            lambda: torch.cat([tensor, tensor]) if tensor.ndim else tensor,
            lambda: tensor.unsqueeze(draw.randrange(tensor.ndim + 1)),
            lambda: tensor.flatten(),
            lambda: tensor.T if tensor.ndim == 2 else -tensor.to(torch.float32),
            lambda: tensor[:0] if tensor.ndim else tensor * 0,
            lambda: torch.tensor(1.0),
            lambda: torch.full_like(tensor, 3),
            lambda: None,
            lambda: tensors.update({"extra": tensor}) or tensor,
            lambda: tensors.update({f"{name}.0": tensor}) or tensor,
            lambda: tensors.update({name: tensors[other], other: tensor}) or tensors[name],
        ]
    )()
    if made is None:
        del tensors[name]
    else:
        tensors[name] = made


def edit_header(header: dict[str, object], draw: random.Random) -> None:
    """Walk down the header at random, and change what stands there."""
    place: dict | list = header
    while True:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = draw.choice(keys)
        if not isinstance(place[key], (dict, list)) or draw.random() < 0.3:
            break
        place = place[key]
    if keys and draw.random() < 0.75:
        place[key] = draw.choice(VALUES)
    elif keys and draw.random() < 0.6:
        del place[key]
    elif isinstance(place, dict):
        place["extra"] = draw.choice(VALUES)
    else:
        place.append(draw.choice(VALUES))


def parts(subject: Subject) -> tuple[dict[str, Tensor], dict[str, object]]:
    size = int.from_bytes(subject.content[:8], "little")
    text = json.loads(subject.content[8 : 8 + size])["__metadata__"][subject.name]
    return load(subject.content), json.loads(text)


def edited(subject: Subject, draw: random.Random) -> tuple[bytes, dict, dict]:
    """Encode changed tensors or a changed header, mostly with a checksum of what they became."""
    tensors, header = parts(subject)
    old = header.pop("sha256")
    for _ in range(draw.choice([1, 1, 1, 2])):
        if draw.random() < 0.5:
            edit_tensors(tensors, draw)
        else:
            edit_header(header, draw)
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    digest = draw.choice([_checksum(header, tensors)] * 8 + [old, None])
    signed = header if digest is None else header | {"sha256": digest}
    return save(tensors, {subject.name: json.dumps(signed)}), tensors, header


def is_same(found: tuple[dict, dict], tensors: dict, header: dict) -> bool:
    ours, about = found
    headers = [{k: v for k, v in h.items() if k != "schema_version"} for h in (about, header)]
    return (
        headers[0] == headers[1]
        and ours.keys() == tensors.keys()
        and all(ours[n].dtype == t.dtype and torch.equal(ours[n], t) for n, t in tensors.items())
    )


def refusal(action: Callable[[], object]) -> str | None:
    """Return the message of the one error that a file may raise, if it does."""
    try:
        action()
    except ValueError as error:
        return str(error) if type(error).__name__ in ("ValueError", "_OtherFitError") else None
    return None


def is_refused(subject: Subject, draw: random.Random, path: Path) -> bool:
    """Damage a file and read it; all but a clean refusal and what was written is a failure."""
    is_raw = draw.random() < 0.5
    content, (tensors, header) = raw(subject.content, draw), parts(subject)
    header.pop("sha256")
    if not is_raw:
        content, tensors, header = edited(subject, draw)
    path.write_bytes(content)
    found = []
    message = refusal(lambda: found.append(subject.read(path)))
    if message is not None:
        assert str(path) in message
        assert len(message) < 2_000 + len(str(header))
        return True
    assert is_same(found[0], tensors, header)
    if not is_raw and draw.random() < SHARE_USED:
        refusal(lambda: subject.use(path))  # what is right in itself may not fit the model
    return False


def damage(subjects, tmp_path: Path, count: int, seed: int) -> None:
    refused = 0
    for number in range(count):
        draw = random.Random(f"{seed}.{number}")
        subject = draw.choice(subjects[draw.random() > SHARE_OF_BANKS])
        try:
            refused += is_refused(subject, draw, tmp_path / "file")
        except Exception as error:
            raise AssertionError(f"mutation {number} of seed {seed}: {error!r}") from error
    assert refused > count / 2


@pytest.mark.parametrize("count", [FEW, pytest.param(SOME, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_load_as_written_or_are_refused(subjects, tmp_path, count):
    damage(subjects, tmp_path, count, seed=0)


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore")
def test_many_damaged_files_load_as_written_or_are_refused(subjects, tmp_path):
    damage(subjects, tmp_path, MANY, seed=1)


def test_whole_files_load_as_written(subjects, tmp_path):
    for subject in (*subjects[0], *subjects[1]):
        tensors, header = parts(subject)
        header.pop("sha256")
        (tmp_path / "file").write_bytes(subject.content)
        assert is_same(subject.read(tmp_path / "file"), tensors, header)
        subject.use(tmp_path / "file")
