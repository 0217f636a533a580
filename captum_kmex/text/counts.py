"""Numbers of things as text."""

from __future__ import annotations

__all__ = ["counted"]


def counted(count: int, noun: str) -> str:
    """Return a number and what it counts, in its singular or plural.

    Example:
        >>> counted(1, "picture"), counted(1200, "class"), counted(2, "patch")
        ('1 picture', '1,200 classes', '2 patches')
    """
    ending = "" if count == 1 else "es" if noun.endswith(("s", "ch")) else "s"
    return f"{count:,} {noun}{ending}"
