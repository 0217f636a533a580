"""``captum-kmex --print-completion SHELL``: the words that a shell completes, by shtab."""

from __future__ import annotations

import argparse
import sys
from argparse import ArgumentParser
from typing import Any

from captum_kmex.cli.options import Commands

__all__ = ["add_completion"]

_SHELLS = ("bash", "zsh", "tcsh")


def add_completion(parser: ArgumentParser, commands: Commands) -> None:
    """Add the option that prints the script of a shell.

    Args:
        parser: Of all commands.
        commands: Its commands, whose files and folders are completed too.
    """

    class Print(argparse.Action):
        def __call__(
            self, parser: argparse.ArgumentParser, _: object, shell: Any, *__: Any
        ) -> None:
            """Print the script, and end."""
            try:
                import shtab
            except ImportError:
                parser.error('completion needs shtab: pip install "captum_kmex[completion]"')
            for command in commands.choices.values():
                for action in command.files:
                    vars(action)["complete"] = shtab.FILE
            sys.stdout.write(f"{shtab.complete(parser, shell)}\n")
            parser.exit()

    parser.add_argument(
        "--print-completion",
        action=Print,
        choices=_SHELLS,
        metavar="SHELL",
        help=f"print what makes a shell complete these words ({', '.join(_SHELLS)})",
    )
