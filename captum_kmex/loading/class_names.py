"""Names of classes from a file: text with a name a line, or JSON."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from pathlib import Path

from captum_kmex.text.class_names import read_class_names

__all__ = ["names_of_file"]

_MARKS = {  # the longer first: a mark of UTF-32 begins with one of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def names_of_file(path: Path, n_classes: int) -> tuple[str, ...]:
    """Read the names of a model's classes.

    Args:
        path: Text in UTF-8, or in UTF-16 or 32 with its mark, a name a line, empty lines aside;
            or a ``.json`` file with a list, ``id2label`` or ``class_to_idx``, also within a
            model's ``config.json``.
        n_classes: How many there must be.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Another encoding, damaged JSON, or another number of names.
    """
    text = _decoded(path)
    names = _of_json(path, text) if path.suffix.lower() == ".json" else _of_lines(text)
    if len(names) != n_classes:
        raise ValueError(
            f"{path} holds {len(names)} names, the model has {n_classes} classes; give one a "
            "line, in the order of the logits"
        )
    return names


def _decoded(path: Path) -> str:
    data = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path} is not in {encoding.upper()}: line {line} cannot be read; save it in UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError(f"{path} is no text, or in UTF-16 without its mark; save it in UTF-8")
    return text


def _of_lines(text: str) -> tuple[str, ...]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return tuple(line.strip() for line in lines if line.strip())


def _of_json(path: Path, text: str) -> tuple[str, ...]:
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            content = next((content[k] for k in ("id2label", "label2id") if k in content), content)
        if not isinstance(content, Iterable):
            raise TypeError(f"it holds a {type(content).__name__}")
        return read_class_names(content)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} holds no class names ({error})") from error
