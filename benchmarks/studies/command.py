"""Run one study; each writes its figures to ``benchmarks/results``."""

from __future__ import annotations

import argparse
import pkgutil
from collections.abc import Sequence
from importlib import import_module

from benchmarks import studies

__all__ = ["main"]


def main(words: Sequence[str]) -> None:
    """Run the study that is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks study", description=__doc__)
    names = {module.name for module in pkgutil.iter_modules(studies.__path__)} - {"command"}
    parser.add_argument("name", choices=sorted(names))
    name = parser.parse_args(words).name
    import_module(f"benchmarks.studies.{name}").main()
