"""Options that several commands share, and the types of their words."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from typing import TypeAlias

from captum_kmex.arguments import OPTIONS
from captum_kmex.cli.answer import Answer
from captum_kmex.cli.parsing import CommandParser

__all__ = [
    "Commands",
    "Run",
    "add_batch_size",
    "add_command",
    "add_image_options",
    "add_layers",
    "add_model",
    "add_option",
    "add_runtime",
    "byte_count",
    "numbers",
    "positive",
    "sides",
]

Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"  # no subscript when run
Run = Callable[[argparse.Namespace], Answer]

_MOST_BYTES = 2.0**60
_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def add_command(commands: Commands, name: str, run: Run, summary: str, more: str) -> CommandParser:
    """Add a subcommand with the options of all."""
    parser = commands.add_parser(name, help=summary, description=more)
    parser.set_defaults(run=run)
    parser.add_argument(
        "--json", action="store_true", help="answer in JSON, and with nothing else, on stdout"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars, no notes")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    return parser


def add_model(parser: ArgumentParser) -> None:
    """Add the model, its weights and its classes."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="torchvision:NAME, timm:NAME, hf:FOLDER, package.module:NAME or file.py:NAME; code of "
        "yours is imported, and what NAME makes is called",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE|DEFAULT",
        help="safetensors, or a torch.save file of tensors (nothing is unpickled); DEFAULT "
        "downloads the published ones",
    )
    add_option(parser, "num_classes", "N", "default: what the weights' head has")
    parser.add_argument(
        "--class-names", metavar="FILE", help="text file, a name a line, in the order of the logits"
    )


def add_image_options(parser: ArgumentParser) -> None:
    """Add the preprocessing."""
    group = parser.add_argument_group(
        "preprocessing",
        "By default what the bank was fitted with, or what the model's published weights were "
        "evaluated with.",
    )
    # one word each: what follows may be DATA
    group.add_argument("--resize", type=sides, metavar="N|HxW", help="shorter side, or both sides")
    group.add_argument("--crop", type=sides, metavar="N|HxW", help="one side of a square, or both")
    group.add_argument("--mean", type=numbers, metavar="X,X,X", help="of each channel, 0 to 1")
    group.add_argument("--std", type=numbers, metavar="X,X,X", help="of each channel")
    group.add_argument(
        "--pixel-range",
        type=numbers,
        metavar="LOW,HIGH",
        help="values that become black and white, of pictures with more than 8 bits a pixel "
        "(--pixel-range=-1024,3071; default: each picture's own least and largest)",
    )
    group.add_argument(
        "--ignore-exif",
        action="store_const",
        const=True,
        help="leave pictures as they lie in the file, instead of turning them upright",
    )


def add_layers(parser: ArgumentParser) -> None:
    """Add the layers."""
    parser.add_argument(
        "--layers",
        action="append",
        metavar="NAME ...",
        help="shallow to deep; default, and with the word suggest: the last layer on each of the "
        "last three grids (see captum-kmex suggest)",
    )


def add_option(
    parser: argparse._ActionsContainer,
    name: str,
    metavar: str,
    text: str,
    read: Callable[[str], object] | None = None,
) -> None:
    """Add a number of the package's table of options, with its range and default.

    Args:
        parser: Where to add it.
        name: The option, ``n_clusters`` for ``--n-clusters``.
        metavar: What stands for the number.
        text: What it is.
        read: Makes the number of the word; by default a whole one.
    """

    def number(word: str) -> object:
        try:
            return option.read(name, (read or _whole)(word))
        except (TypeError, ValueError) as error:
            raise ArgumentTypeError(str(error)) from None

    option = OPTIONS[name]
    flag = f"--{name.replace('_', '-')}"
    parser.add_argument(flag, type=number, default=option.default, metavar=metavar, help=text)


def add_runtime(parser: ArgumentParser) -> None:
    """Add how the work is done."""
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    add_option(parser, "seed", "N", "of everything random (default %(default)s)")
    parser.add_argument(
        "--strict", action="store_true", help="fail for a damaged picture instead of leaving it out"
    )


def add_batch_size(parser: ArgumentParser, default: int | None = None) -> None:
    """Add how many pictures one forward pass takes; the table's default, or another."""
    add_option(parser, "batch_size", "N", "pictures a forward pass (default %(default)s)")
    if default is not None:
        parser.set_defaults(batch_size=default)


def positive(text: str) -> int:
    """Read a whole number from 1."""
    number = _whole(text)
    if number < 1:
        raise ArgumentTypeError(f"{number} is not at least 1")
    return number


def sides(text: str) -> tuple[int, ...]:
    """Read ``224`` or ``192x256``."""
    found = tuple(positive(part) for part in text.lower().split("x"))
    if len(found) > 2:
        raise ArgumentTypeError(f"{text!r} is not N or HxW")
    return found


def numbers(text: str) -> tuple[float, ...]:
    """Read ``0.5`` or ``0.485,0.456,0.406``."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not numbers with commas between them") from None


def byte_count(text: str) -> int:
    """Read bytes, such as ``2GiB``, ``500MB`` or ``1000000``; K, M, G are powers of 1024."""
    plain = text.strip().upper().removesuffix("IB") if text[-2:].upper() == "IB" else text.upper()
    plain = plain.strip().removesuffix("B") if plain[-1:] == "B" else plain
    number, unit = plain.rstrip("KMGT"), plain[len(plain.rstrip("KMGT")) :]
    try:
        count = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        raise ArgumentTypeError(f"{text!r} is no number of bytes, such as 2GiB") from None
    if not 1 <= count < _MOST_BYTES:  # NaN is not, either
        raise ArgumentTypeError(
            f"{text!r} is no number of bytes that a machine has; pass one such as 2GiB"
        )
    return int(count)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a whole number") from None
