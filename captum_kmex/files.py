"""Files written in one step; safetensors with a JSON header, read with clear errors."""

from __future__ import annotations

import glob
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["discard_unfinished", "read_tensors", "write_tensors", "written_whole"]


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], name: str, header: Mapping[str, object]
) -> None:
    """Write tensors and a header; an existing file survives a failure at any moment.

    Args:
        path: The file; it is replaced in one step.
        tensors: What to write, on any device.
        name: Key of the header in the file's metadata.
        header: Anything that JSON holds.

    Raises:
        OSError: The file cannot be written, for instance for want of space.
    """
    content = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with written_whole(path) as beside:
        mode = beside.stat().st_mode  # what the user's umask gives
        try:
            save_file(content, beside, {name: json.dumps(header)})
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written ({error})") from error
        beside.chmod(mode)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give an empty file beside ``path`` to write, which replaces it at the end, or not at all.

    Args:
        path: The file; one that exists survives a failure at any moment.
    """
    beside = _beside(path, uuid.uuid4().hex)
    try:
        beside.touch(exist_ok=False)
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def discard_unfinished(path: Path) -> None:
    """Delete what a process that was killed while writing left beside a file."""
    pattern = _beside(Path(glob.escape(path.name)), "[0-9a-f]" * 32)
    for left in path.parent.glob(str(pattern)):
        left.unlink(missing_ok=True)


def _beside(path: Path, mark: str) -> Path:
    return path.with_name(f".{path.name}.{mark}")


def read_tensors(
    path: Path, name: str, kind: str, remedy: str
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Return a file's tensors and header; nothing is unpickled.

    Args:
        path: The file.
        name: Key of the header in the file's metadata.
        kind: What the file should be, for messages.
        remedy: What to do about a damaged one.

    Raises:
        ValueError: The file is truncated, foreign, or its header is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(name)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or no safetensors file ({error}); {remedy}"
        ) from error
    if text is None:
        raise ValueError(f"{path} is a safetensors file, but no {kind}; pass another path")
    try:
        header: dict[str, object] = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} has a damaged header ({error}); {remedy}") from error
    return tensors, header
