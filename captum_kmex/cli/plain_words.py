"""Messages of the Python interface in the words of the command line."""

from __future__ import annotations

import argparse
import re

__all__ = ["in_plain_words"]

_NO_FLAGS = ("command", "run", "model", "images", "data", "output", "json", "quiet")
_LIST = re.compile(r"(?<![\w)\]])\[('[^']*'(?:, '[^']*')*)\]")


def in_plain_words(message: str, options: argparse.Namespace) -> str:
    """Return a message with options as they are typed, and lists without brackets.

    Args:
        message: Of the Python interface, such as "depth=9 is not one of ['a', 'b']".
        options: The command's, whose names are those of arguments.

    Returns:
        "--depth 9 is not one of a, b".
    """
    for name in vars(options):
        if name not in _NO_FLAGS:
            flag = f"--{name.replace('_', '-')}"
            message = re.sub(rf"(?<![\w.-]){name}='([^']*)'", rf"{flag} \1", message)
            message = re.sub(rf"(?<![\w.-]){name}=(?=\S)", f"{flag} ", message)
            if "_" in name:  # else a word like any other
                message = re.sub(rf"(?<![\w.-]){name}(?![\w=(.])", flag, message)
    return _LIST.sub(lambda found: found[1].replace("'", ""), message)
