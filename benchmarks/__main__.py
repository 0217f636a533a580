"""The one command of the benchmarks; COMMAND --help lists the options of each."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.commands import run_command

__all__ = ["main"]

_COMMANDS = {
    "quality": (
        "benchmarks.quality.command",
        "compare all methods by all measures; writes the tables of docs/benchmarks.md",
    ),
    "speed": ("benchmarks.speed.command", "time them group by group; writes docs/speed.md"),
    "models": (
        "benchmarks.models.command",
        "explain the models of torchvision and timm; writes docs/models.md",
    ),
    "train": ("benchmarks.training", "train the networks of the tasks"),
    "study": ("benchmarks.studies.command", "answer one question by name"),
}


def main(words: Sequence[str]) -> None:
    """Run one command."""
    run_command("python -m benchmarks", __doc__ or "", _COMMANDS, words)


if __name__ == "__main__":
    main(sys.argv[1:])
