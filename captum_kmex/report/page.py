"""The HTML file: a page whose parts are written one by one, and nothing it can load or run."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib import resources
from string import Template
from typing import TextIO

__all__ = ["Page"]

_SCRIPTS = (
    "page.js",
    "pictures.js",
    "segments.js",
    "ledger.js",
    "address.js",
    "maps.js",
    "save.js",
    "viewer.js",
    "images.js",
    "prototypes.js",
    "overview.js",
)


class Page:
    """A page under way: the head is written at once, the data as they come, then the script.

    Text reaches the page as JSON in which no tag can begin, and the script writes it as text.
    A content security policy lets only the style and the script of this release act, and lets
    nothing be loaded.

    Args:
        file: Where to write.
        title: Title of the page.
    """

    def __init__(self, file: TextIO, title: str) -> None:
        self._file = file
        style = _asset("report.css")
        script = "(() => {\n'use strict';\n" + "\n".join(map(_asset, _SCRIPTS)) + "})();\n"
        policy = (
            f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
            f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
        )
        head, tail = _asset("report.html").split("$data")
        parts = {"title": html.escape(title), "policy": policy, "style": style}
        self._file.write(Template(head).substitute(parts))
        self._tail = Template(tail).substitute(script=script)

    def add(self, name: str, data: object) -> None:
        """Write a part of the data, which the script reads when it needs it."""
        text = json.dumps(data, allow_nan=False, separators=(",", ":"))
        for sign in "<>&":  # so that no tag, comment or entity can begin
            text = text.replace(sign, f"\\u{ord(sign):04x}")
        self._file.write(f'<script type="application/json" id="{name}">{text}</script>\n')

    def finish(self) -> None:
        """Write the script."""
        self._file.write(self._tail)


def _asset(name: str) -> str:
    return resources.files("captum_kmex.report").joinpath("assets", name).read_text("utf-8")


def _hash(text: str) -> str:
    """Return a text's hash as a content security policy wants it."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
