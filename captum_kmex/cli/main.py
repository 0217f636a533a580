"""The ``captum-kmex`` command: its words, its exit codes, and what goes to which stream."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence

from captum_kmex._version import __version__
from captum_kmex.cli import (
    demo_command,
    explain_command,
    fit_command,
    info_command,
    report_command,
    suggest_command,
)
from captum_kmex.cli.answer import say, write
from captum_kmex.cli.completion import add_completion
from captum_kmex.cli.parsing import CommandParser, PlainParser
from captum_kmex.cli.plain_words import in_plain_words
from captum_kmex.exceptions import MissingExtraError, UsageError
from captum_kmex.text.plain import printable

__all__ = ["main"]

_COMMANDS = (
    explain_command,
    fit_command,
    report_command,
    suggest_command,
    info_command,
    demo_command,
)
_FAILED, _MISUSED, _INTERRUPTED = 1, 2, 130
_EPILOG = (
    "Exit codes: 0 done, 1 the work failed, 2 wrong usage or a missing extra, 130 interrupted. "
    'pip install "captum_kmex[cli]" brings torchvision and timm.'
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    The answer goes to standard output, everything else to standard error.

    Args:
        arguments: The words after the command; those of the process if ``None``.
    """
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as ending:
        is_done = _answered("", "captum-kmex")  # help may not have reached a full disk
        if not is_done and not ending.code:
            raise SystemExit(_FAILED) from None
        raise
    except OSError as error:  # more than a buffer holds was for a full disk
        _unwritten("captum-kmex", error)
        return _FAILED
    name = f"captum-kmex {options.command}"
    try:
        with contextlib.redirect_stdout(sys.stderr), _plain_warnings(name, options):
            answer = options.run(options)
    except KeyboardInterrupt:
        goes_on = getattr(options, "checkpoint", None) is not None
        hint = "; the same command goes on from its checkpoint" if goes_on else ""
        say(f"{name}: interrupted{hint}", quiet=False)
        return _INTERRUPTED
    except Exception as error:
        if options.traceback:
            sys.stderr.write(printable(traceback.format_exc(), keep="\n"))
        say(f"{name}: error: {in_plain_words(_one_line(error), options)}", quiet=False)
        return _MISUSED if isinstance(error, (UsageError, MissingExtraError)) else _FAILED
    data = json.dumps(answer.data, indent=1).replace("\x7f", "\\u007f")  # the rest is ASCII
    text = data if options.json else printable(answer.text, keep="\n")
    return 0 if _answered(f"{text}\n", name) else _FAILED


def _answered(text: str, name: str) -> bool:
    """Write to standard output; say so, and return ``False``, where it is closed or full."""
    try:
        if sys.stdout is None:
            raise OSError("it is closed")
        write(sys.stdout, text)
    except OSError as error:
        _unwritten(name, error)
        return False
    return True


def _unwritten(name: str, error: OSError) -> None:
    """Say that standard output is closed or full, and leave it alone."""
    say(f"{name}: error: the answer cannot be written ({error.strerror or error})", quiet=False)
    _silence_stdout()


def _silence_stdout() -> None:
    """Send what is left in the buffer nowhere: Python would try again at its end, and complain."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = PlainParser(
        prog="captum-kmex",
        description="Post-hoc self-explanation of CNNs: concept segments whose evidence adds up to "
        "the logit, by one forward pass.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=CommandParser
    )
    add_completion(parser, commands)
    for command in _COMMANDS:
        command.register(commands)
    return parser


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__


@contextlib.contextmanager
def _plain_warnings(name: str, options: argparse.Namespace) -> Iterator[None]:
    """Write warnings as one line each, without the code that gave them."""

    def show(message: Warning | str, *_: object) -> None:
        text = in_plain_words(" ".join(str(message).split()), options)
        say(f"{name}: warning: {text}", quiet=False)

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]  # the message is all we show
        yield
