from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
import torch

from benchmarks.tasks.data.qt_resources import read_resources
from benchmarks.tasks.natural import split_in_halves


def resource_file(version: int, files: dict[str, bytes], packed: bool) -> bytes:
    """A resource file with one folder, ``pictures``, that holds the files."""
    names, offsets = b"", {}
    for name in ("pictures", *files):
        offsets[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    data, nodes = b"", []
    later = b"" if version < 2 else bytes(8)
    nodes.append(struct.pack(">IHII", 0, 2, 1, 1) + later)
    nodes.append(struct.pack(">IHII", offsets["pictures"], 2, len(files), 2) + later)
    for name, content in files.items():
        stored = struct.pack(">I", len(content)) + zlib.compress(content) if packed else content
        nodes.append(struct.pack(">IHHHI", offsets[name], int(packed), 0, 1, len(data)) + later)
        data += struct.pack(">I", len(stored)) + stored
    tree = b"".join(nodes)
    start = 20
    head = struct.pack(
        ">4sIIII", b"qres", version, start, start + len(tree), start + len(tree) + len(data)
    )
    return head + tree + data + names


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_files_of_a_resource_file_are_read(tmp_path: Path, version: int, packed: bool) -> None:
    files = {"one.webp": b"first", "zwei ä.webp": bytes(300)}
    path = tmp_path / "some.rcc"
    path.write_bytes(resource_file(version, files, packed))
    found = {str(name): content for name, content in read_resources(path)}
    assert found == {f"pictures/{name}": content for name, content in files.items()}


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.rcc"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="no Qt resource file"):
        list(read_resources(path))


def test_halves_are_disjoint_and_groups_take_turns() -> None:
    groups = [[(torch.zeros(1), 10 * g + i) for i in range(n)] for g, n in enumerate((5, 2, 3))]
    validation, test = ([number for _, number in half] for half in split_in_halves(groups))
    assert validation == [0, 10, 20, 2, 22, 4]
    assert test == [1, 11, 21, 3]
