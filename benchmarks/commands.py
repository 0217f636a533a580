"""Hand a command line to the module of its first word."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from importlib import import_module

__all__ = ["run_command"]


def run_command(
    prog: str, about: str, commands: Mapping[str, tuple[str, str]], words: Sequence[str]
) -> None:
    """Run the ``main`` of the module that the first word names, on the other words.

    Args:
        prog: What was typed before the words.
        about: What the commands are for, in the help.
        commands: Module and a line of help of each command; only the one that runs is imported.
        words: The words.
    """
    parser = argparse.ArgumentParser(prog=prog, description=about)
    known = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, line) in commands.items():
        known.add_parser(name, help=line, add_help=False)
    options, rest = parser.parse_known_args(words)
    import_module(commands[options.command][0]).main(rest)
