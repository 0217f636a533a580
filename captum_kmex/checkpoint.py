"""A fit's progress on disk: stage, batches done and everything collected so far."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from captum_kmex.files import discard_unfinished, read_tensors, write_tensors
from captum_kmex.ranks import gather, rank, together, world_size

__all__ = ["Checkpoint", "part"]

_HEADER = "captum_kmex_checkpoint"
_REMEDY = "delete it, or pass another path"
_SHARE = 20  # a save may take one part in so many of the time between two


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries of a saved state whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


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

    Attributes:
        stage: The stage to begin with.
        position: Batches of it that are done.
        common: What the stages before found.
        collected: What the stage has collected.

    Raises:
        ValueError: The file is damaged or belongs to another fit.
        FileNotFoundError: Its folder does not exist.
        IsADirectoryError: It is a folder.
        RuntimeError: The fit failed on another machine of the group.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, identity: Mapping[str, object], interval: float
    ) -> None:
        self._path = None if path is None else _own_path(Path(path))
        self._identity = dict(identity)
        self._interval = interval
        self._pause = interval
        self._last = time.monotonic()
        self.stage = self.position = 0
        self.common: dict[str, Tensor] = {}
        self.collected: dict[str, Tensor] = {}
        with together():
            if self._path is not None:
                self._open(self._path)
        self._catch_up()

    def _open(self, path: Path) -> None:
        if not path.parent.is_dir():
            raise FileNotFoundError(f"no folder {path.parent} for the checkpoint; create it")
        if path.is_dir():
            raise IsADirectoryError(f"the checkpoint {path} is a folder; name a file in it")
        discard_unfinished(path)
        if path.is_file():
            self._read(path)

    def _read(self, path: Path) -> None:
        tensors, header = read_tensors(path, _HEADER, "checkpoint of a fit", _REMEDY)
        found: Mapping[str, object] = header["identity"]  # type: ignore[assignment]
        names = sorted(self._identity.keys() | found.keys())
        differing = [name for name in names if self._identity.get(name) != found.get(name)]
        if differing:
            name = differing[0]
            raise ValueError(
                f"the checkpoint {path} belongs to another fit: it differs in {differing} "
                f"({name}: {found.get(name)!r}, now {self._identity.get(name)!r}); {_REMEDY}"
            )
        self.stage, self.position = int(header["stage"]), int(header["position"])  # type: ignore[call-overload]
        self.common, self.collected = part(tensors, "common."), part(tensors, "collected.")

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
        header = {"identity": self._identity, "stage": self.stage, "position": position}
        write_tensors(self._path, tensors, _HEADER, header)
        self._last = time.monotonic()
        if self._interval:
            self._pause = max(self._interval, _SHARE * (self._last - started))

    def remove(self) -> None:
        """Delete the file: the fit is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            discard_unfinished(self._path)


def _own_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.rank{rank()}") if world_size() > 1 else path
