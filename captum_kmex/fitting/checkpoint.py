"""A fit's progress on disk: stage, batches done and everything collected so far."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from torch import Tensor

from captum_kmex.data.digests import BatchMarks
from captum_kmex.distributed import gather, rank, together, world_size
from captum_kmex.files.fields import Fields
from captum_kmex.files.locks import free_lock, take_lock
from captum_kmex.files.tensor_file import read_tensors, write_tensors
from captum_kmex.files.workplace import discard_unfinished, name_beside
from captum_kmex.fitting.progress import Outputs, Progress
from captum_kmex.fitting.rows import RowSource

__all__ = ["Checkpoint", "held"]

_HEADER = "captum_kmex_checkpoint"
_SCHEMAS = {3: True}  # which are read, and whether they have a checksum
_REMEDY = "delete it, or pass another path"
_SHARE = 20  # a save may take one part in so many of the time between two


@contextmanager
def held(path: str | os.PathLike[str] | None) -> Iterator[None]:
    """Keep a checkpoint's path from all other fits, of this process too, as long as this lives.

    Args:
        path: As of ``Checkpoint``.

    Raises:
        ValueError: Another fit uses it.
        FileNotFoundError: Its folder does not exist.
        IsADirectoryError: It is a folder.
        RuntimeError: The fit failed on another machine of the group.
    """
    with ExitStack() as stack:
        with together():
            if path is not None:
                stack.enter_context(_locked(_own_path(Path(path))))
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} for the checkpoint; create it")
    if path.is_dir():
        raise IsADirectoryError(f"the checkpoint {path} is a folder; name a file in it")
    beside = name_beside(path, "lock")
    lock = take_lock(beside)
    if lock is None:
        raise ValueError(
            f"another fit that still runs uses the checkpoint {path}; wait for it to end, or pass "
            "another path"
        )
    try:
        yield
    finally:
        free_lock(lock, beside)


class Checkpoint:
    """What an interrupted fit left behind, and where this one leaves its progress.

    A fit goes through stages, each a pass over the data. The file holds what the stages before
    found (``common``) and what the present one has collected after so many batches.

    Args:
        path: The file; ``None`` keeps nothing. Each machine of a group has its own, ending in
            ``.rank1`` and so on.
        identity: What must be equal for a fit to be the same, fit for JSON.
        interval: Seconds between two saves, at least; more where a save takes long. 0 saves
            after every batch.
        check: What compares a saved progress with what one of this fit can be.

    Attributes:
        marks: Digests of the batches of the first pass; ``None`` without a path.
        stage: The stage to begin with.
        position: Batches of it that are done.
        common: What the stages before found.
        collected: What the stage has collected.

    Raises:
        ValueError: The file is damaged or belongs to another fit.
        RuntimeError: The fit failed on another machine of the group.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        identity: Mapping[str, object],
        interval: float,
        check: Callable[[Progress], None] | None = None,
    ) -> None:
        self._path = None if path is None else _own_path(Path(path))
        self._identity = dict(identity)
        self._interval = interval
        self._check = check
        self._outputs: Outputs | None = None
        self._pause = interval
        self._last = time.monotonic()
        self.stage = self.position = 0
        self.common: dict[str, Tensor] = {}
        self.collected: dict[str, Tensor] = {}
        self.marks = None if self._path is None else BatchMarks(self._path)
        with together():
            if self._path is not None:
                self._open(self._path)
        self._catch_up()

    def _open(self, path: Path) -> None:
        discard_unfinished(path)
        if path.is_file():
            self._read(path)

    def _read(self, path: Path) -> None:
        tensors, header = read_tensors(
            path, _HEADER, "checkpoint of a fit", _REMEDY, schemas=_SCHEMAS
        )
        try:
            fields = Fields(header)
            fields.only("schema_version", "identity", "stage", "position")
            self._check_identity(fields.mapping("identity"))
            progress = Progress.of(fields.integer("stage"), fields.integer("position"), tensors)
            if self._check is not None:
                self._check(progress)
                self._outputs = progress.outputs()
        except _OtherFitError:
            raise
        except ValueError as error:
            raise ValueError(f"{path}: {error}; the file is damaged, {_REMEDY}") from error
        self.stage, self.position = progress.stage, progress.position
        self.common, self.collected = progress.common, progress.collected
        self.marks = BatchMarks(path, progress.marks)

    def _check_identity(self, found: Mapping[str, object]) -> None:
        mine, names = self._identity, sorted(self._identity.keys() | found.keys())
        differing = [
            name
            for name in names
            if (name in mine) != (name in found) or mine.get(name) != found.get(name)
        ]
        if differing:
            name = differing[0]
            raise _OtherFitError(
                f"the checkpoint {self._path} belongs to another fit: it differs in {differing} "
                f"({name}: {found.get(name)!r}, now {self._identity.get(name)!r}); {_REMEDY}"
            )

    def _catch_up(self) -> None:
        """Go on with the latest stage of any machine: a stage ends for all together."""
        if world_size() == 1:
            return
        stages = gather(self.stage)
        latest = max(stages)
        leader = stages.index(latest)
        if min(stages) < latest:
            common = gather(self.common if rank() == leader else {})[leader]
            if self.stage < latest:
                self.stage, self.position = latest, 0
                self.common, self.collected = common, {}

    def begin(self, stage: int, common: Mapping[str, Tensor]) -> None:
        """Note what the stages before ``stage`` found, and that it begins."""
        if stage > self.stage:
            self.stage, self.position = stage, 0
            self.common, self.collected = dict(common), {}
            with together():
                self.save(0, {})

    def compare(self, n_logits: int, rows: Sequence[RowSource]) -> None:
        """Compare what the model gives for the first batch with what was saved, once.

        Raises:
            ValueError: Another number of logits, or rows of another width or dtype.
        """
        saved, self._outputs = self._outputs, None
        if saved is not None and not saved.fits(n_logits, rows):
            raise ValueError(
                f"{self._path} holds features of another width or dtype, or of another number of "
                f"logits, than the model gives; {_REMEDY}"
            )

    @property
    def is_due(self) -> bool:
        """Whether it is time to save."""
        return self._path is not None and time.monotonic() - self._last >= self._pause

    def save(self, position: int, collected: Mapping[str, Tensor]) -> None:
        """Write the progress of the present stage; nothing without a path."""
        if self._path is None:
            return
        started = time.monotonic()
        tensors = {f"common.{name}": tensor for name, tensor in self.common.items()}
        tensors |= {f"collected.{name}": tensor for name, tensor in collected.items()}
        if self.marks is not None:
            tensors["marks"] = self.marks.state()
        header = {
            "schema_version": max(_SCHEMAS),
            "identity": self._identity,
            "stage": self.stage,
            "position": position,
        }
        write_tensors(self._path, tensors, _HEADER, header)
        self._last = time.monotonic()
        if self._interval:
            self._pause = max(self._interval, _SHARE * (self._last - started))

    def remove(self) -> None:
        """Delete the file: the fit is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            discard_unfinished(self._path)


class _OtherFitError(ValueError):
    """The checkpoint is of another fit."""


def _own_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.rank{rank()}") if world_size() > 1 else path
