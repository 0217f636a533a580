"""Safetensors files with a JSON header and a checksum, read with clear errors."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from captum_kmex.files.atomic import written_whole
from captum_kmex.files.fields import is_integer, parsed_header

__all__ = ["read_tensors", "write_tensors"]

_CHECKSUM = "sha256"
_MOST_DIMENSIONS = 8
_DTYPES = ("BOOL", "U8", "I8", "I16", "I32", "I64", "F16", "BF16", "F32", "F64")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], name: str, header: Mapping[str, object]
) -> None:
    """Write tensors, a header and their checksum; an existing file survives a failure.

    Args:
        path: The file; it is replaced in one step.
        tensors: What to write, on any device.
        name: Key of the header in the file's metadata.
        header: Anything that JSON holds.

    Raises:
        OSError: The file cannot be written, for instance for want of space.
        TypeError: The header holds what JSON does not.
        ValueError: The header holds NaN or infinity, or far too many values.
    """
    content = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    as_read = parsed_header(json.dumps(header, allow_nan=False))
    text = json.dumps(as_read | {_CHECKSUM: _checksum(as_read, content)})
    with written_whole(path) as beside:
        mode = beside.stat().st_mode  # what the user's umask gives
        try:
            save_file(content, beside, {name: text})
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written ({error})") from error
        beside.chmod(mode)


def _checksum(header: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a header and of all tensors' names, types, shapes and bytes."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        about = [name, str(tensor.dtype), list(tensor.shape)]
        digest.update(json.dumps(about).encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_tensors(
    path: Path,
    name: str,
    kind: str,
    remedy: str,
    *,
    schemas: Mapping[int, bool] | None = None,
    most: int | None = None,
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Return copies of a file's tensors, and its header; nothing is unpickled.

    Args:
        path: The file.
        name: Key of the header in the file's metadata.
        kind: What the file should be, for messages.
        remedy: What to do about a damaged one.
        schemas: The header's schema versions that are read, and whether files of it have a
            checksum; ``None``: there are no versions, and all have one.
        most: Most tensors that a file of this kind has.

    Raises:
        ValueError: The file is truncated, foreign, of another schema, or its content is not
            what was written.
        OSError: The file is missing or cannot be read.
    """
    tensors, text = _content(path, name, kind, remedy, most)
    try:
        header = parsed_header(text)
    except ValueError as error:
        raise ValueError(f"{path} has a damaged header ({error}); {remedy}") from error
    expected = header.pop(_CHECKSUM, None)
    if _is_checked(header, schemas, path, remedy) or expected is not None:
        if expected is None:
            raise ValueError(f"{path} is damaged: it lacks its checksum; {remedy}")
        if expected != _checksum(header, tensors):
            raise ValueError(
                f"{path} is damaged: its content is not what was written (the SHA-256 differs); "
                f"{remedy}"
            )
    return tensors, header


def _is_checked(
    header: Mapping[str, object], schemas: Mapping[int, bool] | None, path: Path, remedy: str
) -> bool:
    """Return whether a file of the header's schema has a checksum."""
    if schemas is None:
        return True
    version = header.get("schema_version")
    if not is_integer(version) or version not in schemas:
        raise ValueError(
            f"{path} has schema version {str(version)[:20]}, this release reads "
            f"{' and '.join(map(str, schemas))}; upgrade captum_kmex, or {remedy}"
        )
    return schemas[version]


def _content(
    path: Path, name: str, kind: str, remedy: str, most: int | None
) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a safetensors file and the text of its header."""
    with path.open("rb") as plain:  # or the system says why not
        size = os.fstat(plain.fileno()).st_size
    _check_name(path)
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(name)
            if text is None:
                raise ValueError(f"{path} is a safetensors file, but no {kind}; pass another path")
            return _copies(file, size, size if most is None else most), text
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or no safetensors file ({error}); {remedy}"
        ) from error
    except _TensorError as error:
        raise ValueError(f"{path} is damaged: it holds {error}; {remedy}") from error


def _check_name(path: Path) -> None:
    """Raise ``ValueError`` for a path that safetensors does not open."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{path} cannot be opened: safetensors reads only paths that are valid UTF-8; rename "
            "what is not, or move the file"
        ) from error


class _TensorError(ValueError):
    """What a file of this package never holds."""


def _copies(file: Any, size: int, most: int) -> dict[str, Tensor]:
    """Return a file's tensors, in memory of their own: the file may change afterwards."""
    names = list(file.keys())
    if len(names) > most:
        raise _TensorError(f"{len(names)} tensors, of at most {most}")
    return {name: _copy(file, name, size) for name in names}


def _copy(file: Any, name: str, size: int) -> Tensor:
    about = file.get_slice(name)
    dtype, shape = about.get_dtype(), about.get_shape()
    # an empty tensor may claim any shape
    if dtype not in _DTYPES or len(shape) > _MOST_DIMENSIONS or max(shape, default=0) > size:
        raise _TensorError(f"a tensor {name!r} of type {dtype} and shape {shape[:9]}")
    tensor: Tensor = file.get_tensor(name)
    return tensor.clone()
