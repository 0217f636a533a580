"""Read Qt's binary resource files (.rcc), in which some programs keep their pictures.

Format: https://doc.qt.io/qt-6/resources.html; a header, a tree of nodes, their names and data.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["read_resources"]

_FOLDER, _PACKED = 2, 1


def read_resources(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield name and content of each file in a resource file.

    Raises:
        ValueError: It is no such file.
    """
    content = path.read_bytes()
    if content[:4] != b"qres":
        raise ValueError(f"{path} is no Qt resource file")
    version, tree, data, names = struct.unpack(">IIII", content[4:20])
    size = 14 if version < 2 else 22  # later versions keep the time of change too

    def name(offset: int) -> str:
        (count,) = struct.unpack_from(">H", content, names + offset)
        start = names + offset + 6  # after the length and a hash
        return content[start : start + 2 * count].decode("utf-16-be")

    def walk(number: int, folder: PurePosixPath) -> Iterator[tuple[PurePosixPath, bytes]]:
        at = tree + number * size
        called, flags = struct.unpack_from(">IH", content, at)
        here = folder / name(called) if number else folder
        if flags & _FOLDER:
            count, first = struct.unpack_from(">II", content, at + 6)
            for child in range(first, first + count):
                yield from walk(child, here)
            return
        (offset,) = struct.unpack_from(">I", content, at + 10)
        (length,) = struct.unpack_from(">I", content, data + offset)
        found = content[data + offset + 4 : data + offset + 4 + length]
        yield here, zlib.decompress(found[4:]) if flags & _PACKED else found

    return walk(0, PurePosixPath())
