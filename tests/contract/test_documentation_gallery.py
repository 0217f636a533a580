"""The gallery page: its pictures are there, small, and all shown; its code names what exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from captum_kmex import visualization

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "gallery.md").read_text()


def test_gallery_shows_every_picture_of_its_folder():
    shown = set(re.findall(r"!\[[^\]]+\]\(images/gallery/(.+?)\)", PAGE))
    there = {path.name: path.stat().st_size for path in (DOCS / "images" / "gallery").iterdir()}
    assert shown == set(there)
    assert max(there.values()) <= 150_000


def test_gallery_has_code_for_every_plot_function():
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.S))
    called = {
        node.func.id
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    plots = {name for name in visualization.__all__ if name.startswith(("plot_", "visualize_"))}
    assert plots - called == {"plot_explanation"}  # called by Explanation.plot
