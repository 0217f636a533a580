"""The one writer of the pages: Markdown tables, figures, and parts put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

__all__ = ["bold_if", "figure", "join", "placed", "rewrite", "table", "versions"]


def join(parts: Iterable[str]) -> str:
    """Return the parts that are not empty, an empty line between two."""
    return "\n\n".join(part for part in parts if part)


def table(heads: Sequence[str], lines: Iterable[Sequence[str]], rule: str = "---") -> str:
    """Return a table.

    Args:
        heads: Headings of the columns.
        lines: Cells of each line.
        rule: What stands below the headings but the first: ``"--:"`` sets columns to the right.
    """
    head = "|".join(f" {title} " if title else " " for title in heads)
    rules = f"|---|{f'{rule}|' * (len(heads) - 1)}"
    return "\n".join([f"|{head}|", rules, *(f"| {' | '.join(cells)} |" for cells in lines)])


def figure(title: str, path: str | Path) -> str:
    """Return a picture with its title; the path is relative to the page."""
    return f"![{title}]({path})"


def bold_if(is_best: bool, text: str) -> str:
    """Return the text, bold where it is the best of its column."""
    return f"**{text}**" if is_best else text


def versions(environment: Mapping[str, object]) -> str:
    """Return the versions of the packages that something was run with, in words."""
    known = environment["versions"]
    if not isinstance(known, Mapping):
        raise TypeError(f"versions must be a mapping, got {type(known).__name__}")
    return ", ".join(f"{name} {number}" for name, number in known.items())


def placed(text: str, command: str) -> str:
    """Return a part of a page that a command writes, between the comments that mark it."""
    begin, end = _marks(command)
    return join([begin, text, end])


def rewrite(page: Path, text: str, command: str) -> None:
    """Write a part of a page anew, and nothing else of it.

    Raises:
        ValueError: The page has no place for it.
    """
    begin, end = _marks(command)
    before, has_begin, rest = page.read_text().partition(begin)
    _, has_end, after = rest.partition(end)
    if not (has_begin and has_end):
        raise ValueError(f"{page.name} must hold {begin!r} and {end!r}, the place of what is new")
    page.write_text(before + placed(text, command) + after)


def _marks(command: str) -> tuple[str, str]:
    return f"<!-- written by {command} -->", f"<!-- end of what {command} writes -->"
