"""Names of strangers' files, classes and layers as text that no terminal takes for a command."""

from __future__ import annotations

import unicodedata

__all__ = ["printable"]

_CONTROLS = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode's categories of what is obeyed, not shown
_JOINERS = "\u200c\u200d"  # words and pictures are spelt with them


def printable(text: str, keep: str = "") -> str:
    r"""Return a text with every control character written out, such as ``\x1b``.

    Those that turn the direction of writing round are written out too, and bytes of file names
    that are no UTF-8.

    Args:
        text: Any text.
        keep: Control characters that stay, such as the newline.

    Example:
        >>> printable("\x1b[2J and\u202e back")
        '\\x1b[2J and\\u202e back'
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or not _is_control(c) else _written(c) for c in text)


def _is_control(c: str) -> bool:
    return unicodedata.category(c) in _CONTROLS and c not in _JOINERS


def _written(c: str) -> str:
    if "\udc80" <= c <= "\udcff":  # how Python holds a byte that is no UTF-8
        return f"\\x{ord(c) - 0xDC00:02x}"
    return c.encode("unicode_escape").decode()
