"""The one command of the benchmarks: ``python -m benchmarks quality | speed | train | study``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

__all__ = ["main"]

_COMMANDS = {  # the module that runs it, and what it does
    "quality": (
        "quality.command",
        "compare all methods by all measures, and write docs/benchmarks.md's tables and figures",
    ),
    "speed": ("speed.command", "time them group by group, and write docs/speed.md"),
    "train": ("training", "train the networks of the tasks"),
    "study": ("studies.command", "answer one question by name: what an exported model costs"),
}


def main(words: Sequence[str]) -> None:
    """Run one command; ``python -m benchmarks COMMAND --help`` lists its options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, about) in _COMMANDS.items():
        commands.add_parser(name, help=about, add_help=False)
    options, rest = parser.parse_known_args(words)
    module, _ = _COMMANDS[options.command]
    import_module(f"benchmarks.{module}").main(rest)  # the others' libraries are not needed


if __name__ == "__main__":
    main(sys.argv[1:])
