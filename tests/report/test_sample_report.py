"""The report that the site shows: small, and as the package writes it today."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "docs" / "_static" / "sample_report.html"
ASSETS = [path for path in (files("captum_kmex.report") / "assets").iterdir()
          if Path(path.name).suffix in (".css", ".js")]  # fmt: skip


def test_the_sample_is_small_and_linked():
    assert SAMPLE.stat().st_size < 1_500_000
    assert "_static/sample_report.html" in (ROOT / "docs" / "report.md").read_text()
    assert "docs/_static/sample_report.html" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("asset", ASSETS, ids=lambda path: path.name)
def test_the_sample_is_written_by_this_version(asset):
    """Else run docs/make_sample_report.py again."""
    assert asset.read_text().strip() in SAMPLE.read_text()
