"""Sphinx extension: run the Python blocks of chosen pages, show what they print and draw.

Pages stay plain Markdown. A page may go on with the names of another, which is then run
before it, once a build. A block that fails is a warning, and with ``-W`` an error.
"""

from __future__ import annotations

import contextlib
import io
import logging as standard_logging
import os
import re
import tempfile
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

matplotlib.use("agg")
from matplotlib import pyplot as plt

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What one block left: its text and its pictures, by paths in the source folder."""

    text: str
    pictures: list[str]


@dataclass(frozen=True)
class Run:
    """A page that was run: the names it ended with, and the result of each block."""

    names: dict[str, Any]
    results: list[Result] = field(default_factory=list)


class Runner:
    """Runs pages in one folder, which is deleted after the build.

    Args:
        app: The build, whose ``executed_pages`` maps each page to the one it goes on with.
    """

    def __init__(self, app: Sphinx) -> None:
        self.source, self.pages = Path(app.srcdir), app.config.executed_pages
        self.pictures = self.source / "_build" / "executed"
        self.folder = tempfile.TemporaryDirectory()
        self.runs: dict[str, Run] = {}

    def run(self, page: str) -> Run:
        """Run a page, after the one that it goes on with; each is run once."""
        if page not in self.runs:
            before = self.pages[page]
            names = dict(self.run(before).names) if before else {"__name__": "__main__"}
            self.runs[page] = run = Run(names)
            text = (self.source / f"{page}.md").read_text()
            for number, code in enumerate(_BLOCK.findall(text)):
                run.results.append(self._block(code, names, f"{page}-{number}"))
        return self.runs[page]

    def _block(self, code: str, names: dict[str, Any], name: str) -> Result:
        text, error, folder = io.StringIO(), "", Path.cwd()
        os.chdir(self.folder.name)
        standard_logging.disable(standard_logging.INFO)
        try:
            with contextlib.redirect_stdout(text), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exec(compile(code, name, "exec"), names)
        except Exception:
            error = traceback.format_exc()
            _logger.warning("block %s failed:\n%s", name, error)
        finally:
            os.chdir(folder)
            standard_logging.disable(standard_logging.NOTSET)
        return Result(text.getvalue() + error, self._drawn(name))

    def _drawn(self, name: str) -> list[str]:
        """Save and close all open figures."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        found = []
        for number in plt.get_fignums():
            picture = self.pictures / f"{name}-{number}.png"
            plt.figure(number).savefig(picture, dpi=110, bbox_inches="tight")
            found.append(f"/_build/executed/{picture.name}")
        plt.close("all")
        return found


def show_results(app: Sphinx, doctree: nodes.document) -> None:
    """Insert the results below the blocks of an executed page."""
    page = app.env.docname
    if app.builder.format != "html" or page not in app.config.executed_pages:
        return
    runner = vars(app).setdefault("executed_runner", Runner(app))
    blocks = [b for b in doctree.findall(nodes.literal_block) if b.get("language") == "python"]
    for block, result in zip(blocks, runner.run(page).results, strict=True):
        at, parent = block.parent.index(block) + 1, block.parent
        if result.text:
            output = nodes.literal_block(result.text, result.text, language="text")
            output["classes"].append("output")
            parent.insert(at, output)
            at += 1
        for number, picture in enumerate(result.pictures):
            parent.insert(at + number, nodes.image(uri=picture, alt="what the code draws"))


def setup(app: Sphinx) -> dict[str, object]:
    """Register the extension."""
    app.add_config_value("executed_pages", {}, "env", [dict])
    app.connect("doctree-read", show_results, priority=100)  # before images are collected
    return {"version": "1", "parallel_read_safe": False}
