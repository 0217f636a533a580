"""The words of a command in any order, and complaints without control characters."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from captum_kmex.loading.finding import ENDINGS, UNREAD
from captum_kmex.text.plain import printable

__all__ = ["CommandParser", "PlainParser"]

_LAYERS = "--layers"


class PlainParser(argparse.ArgumentParser):
    """A parser whose complaints hold no control characters of what it was given."""

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and exit with 2."""
        # "argument --n-clusters: n_clusters=0 should be": the option is named already
        super().error(printable(re.sub(r"^(argument --[\w-]+: )\w+=", r"\1", message)))


class CommandParser(PlainParser):
    """The parser of one command: options, and what it works on, in any order.

    ``--layers`` takes as many names as follow. A word that can be no layer ends them: a model, a
    path, a file. A folder's name can be a layer's; it ends them where no picture is named else.
    """

    _places: tuple[str, str] | None = None
    _is_within = False

    def __init__(self, *args: Any, **options: Any) -> None:
        self.files: list[argparse.Action] = []  # what takes a file or folder
        super().__init__(*args, **options)

    def add_argument(self, *args: Any, **options: Any) -> argparse.Action:
        """Add an argument; those that take files or folders are remembered."""
        action = super().add_argument(*args, **options)
        if action.type is Path:
            self.files.append(action)
        return action

    def add_pictures(self, name: str, metavar: str, *, is_one: bool, text: str) -> None:
        """Add what the command works on: files or folders, or one folder.

        Args:
            name: Where the options hold it.
            metavar: What stands for it.
            is_one: One folder, instead of as many files and folders as there are.
            text: What it is.
        """
        self._places = (name, metavar)
        self.add_argument(name, metavar=metavar, type=Path, nargs="?" if is_one else "*", help=text)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse words, whatever their order; what is left over is an error."""
        if self._is_within:  # argparse asks again, for options alone
            return super().parse_known_args(args, namespace)
        self._is_within = True
        try:
            words = list(_one_layer_each(list(args)))
            found, left = self.parse_known_intermixed_args(words, namespace)
        finally:
            self._is_within = False
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}")
        if self._places is not None:
            self._settle(found, *self._places)
        return found, left

    def _settle(self, found: argparse.Namespace, name: str, metavar: str) -> None:
        """Take folders from the end of the layers' names where no picture is named else."""
        if getattr(found, name):
            return
        layers: list[str] = found.layers or []
        taken: list[Path] = []
        while len(layers) > 1 and Path(layers[-1]).is_dir():
            taken.insert(0, Path(layers.pop()))
        is_one = not isinstance(getattr(found, name), list)
        if not taken or (is_one and len(taken) > 1):
            self.error(f"the following arguments are required: {metavar}")
        setattr(found, name, taken[0] if is_one else taken)


def _one_layer_each(words: Sequence[str]) -> Iterator[str]:
    """Write ``--layers a b c.png`` as ``--layers=a --layers=b c.png``."""
    rest = iter(words)
    is_layer, is_first = False, False
    for word in rest:
        if word == "--":
            yield from (word, *rest)
        elif word == _LAYERS:
            is_layer = is_first = True
        elif is_layer and not word.startswith("-") and (is_first or _may_be_layer(word)):
            is_first = False
            yield f"{_LAYERS}={word}"
        else:
            if is_first:
                yield _LAYERS  # argparse says that its name is missing
            is_layer = is_first = False
            yield word
    if is_first:
        yield _LAYERS


def _may_be_layer(word: str) -> bool:
    has_sign = any(sign in word for sign in (":", "/", os.sep))
    return not (has_sign or word.lower().endswith((*ENDINGS, *UNREAD)) or Path(word).is_file())
