"""Pages of plain Markdown as notebooks for MyST-NB: their Python blocks are the cells."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
_KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
_OFFER = (
    "{{nb-download}}`This page as a notebook <{page}.ipynb>`; in Colab run "
    '`%pip install "captum_kmex[demo,export]"` first.'
)


def read(text: str, path: str, goes_on_with: str | None = None) -> NotebookNode:
    """Return a page as a notebook.

    Args:
        text: The page.
        path: Its file.
        goes_on_with: Another page, whose blocks come first, hidden.
    """
    cells = list(_cells(text))
    title, _, rest = cells[0].source.partition("\n")
    page = Path(path).stem
    cells[0].source = "\n\n".join([title, _OFFER.format(page=page), rest])
    if goes_on_with is not None:
        other = Path(path).with_name(f"{goes_on_with}.md").read_text()
        before = "\n\n".join([f"# the {goes_on_with}", *map(str.strip, _BLOCK.findall(other))])
        cells.insert(1, new_code_cell(before, metadata={"tags": ["hide-cell", "remove-output"]}))
    return new_notebook(cells=cells, metadata={"kernelspec": _KERNEL})


def _cells(text: str) -> Iterator[NotebookNode]:
    end = 0
    for block in _BLOCK.finditer(text):
        if before := text[end : block.start()].strip():
            yield new_markdown_cell(before)
        yield new_code_cell(block[1].strip())
        end = block.end()
    if rest := text[end:].strip():
        yield new_markdown_cell(rest)
