"""The writer of the pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.page import placed, rewrite


def test_a_part_of_a_page_is_written_in_its_place_only(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n\n{placed('old', 'make it')}\n\n{placed('kept', 'make')}\nAfter.\n")
    rewrite(page, "new", "make it")
    parts = placed("new", "make it"), placed("kept", "make")
    assert page.read_text() == "Before.\n\n{}\n\n{}\nAfter.\n".format(*parts)


def test_a_page_without_the_place_stays_as_it_was(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Before.\n")
    with pytest.raises(ValueError, match=r"page\.md must hold '<!-- written by make it -->'"):
        rewrite(page, "new", "make it")
    assert page.read_text() == "Before.\n"
