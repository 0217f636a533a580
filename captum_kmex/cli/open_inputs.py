"""What ``explain`` and ``report`` share: pictures, and an attribution that may have a bank."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from captum_kmex.attributions.layer_kmeans import LayerKMeansAttribution
from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.cli.answer import say
from captum_kmex.cli.open_model import (
    Subject,
    attribution_of,
    folder_classes,
    open_subject,
)
from captum_kmex.cli.options import (
    add_image_options,
    add_layers,
    add_model,
    add_option,
    add_runtime,
)
from captum_kmex.cli.parsing import CommandParser
from captum_kmex.cli.provenance import record_of, training_set
from captum_kmex.exceptions import SkippedImageWarning, UsageError, warn_user
from captum_kmex.loading.finding import unread_in
from captum_kmex.loading.pictures import (
    NamedPictures,
    PictureSet,
    find_pictures,
    looked_at,
    readable,
)

__all__ = ["Explanandum", "add_evidence", "add_words", "open_explanandum"]


@dataclass(frozen=True)
class Explanandum:
    """What is to be explained, and with what.

    Attributes:
        subject: The model.
        attribution: Fitted if there is a bank.
        pictures: Those to explain.
        skipped: Names of the files that are not explained, each with why.
        train_set: Pictures of the bank's fit, for its patches, if they were given.
    """

    subject: Subject
    attribution: LayerKMeansAttribution
    pictures: PictureSet
    skipped: dict[str, str]
    train_set: Sequence[object] | None


def add_words(parser: CommandParser) -> None:
    """Add the options of ``explain`` and ``report``."""
    add_model(parser)
    parser.add_pictures("images", "IMAGES", is_one=False, text="files, or folders of them")
    parser.add_argument("--bank", type=Path, help="prototypes from captum-kmex fit; default: none")
    parser.add_argument(
        "--train", type=Path, metavar="DATA", help="the DATA of that fit, to show nearest patches"
    )
    add_layers(parser)
    add_option(parser, "n_clusters", "N", "segments, without a bank (default %(default)s)")
    add_image_options(parser)
    add_runtime(parser)


def add_evidence(parser: ArgumentParser) -> None:
    """Add how evidence is found."""
    parser.add_argument(
        "--evidence",
        choices=("allocated", "measured"),
        default="allocated",
        help="the head's, carried down in one pass, or measured by removing parts of the picture: "
        "some 140 passes (default allocated)",
    )


def open_explanandum(options: argparse.Namespace) -> Explanandum:
    """Load model, bank and pictures.

    Raises:
        UsageError: Options that do not go together.
        ValueError: A file is damaged, or the bank is another model's.
    """
    if options.bank is None and options.train is not None:
        raise UsageError("--train shows the patches of a bank; give --bank too, or leave it out")
    if options.bank is not None and options.layers:
        raise UsageError("a bank has its own layers; leave out --layers, or --bank")
    if options.bank is not None and not options.bank.exists():
        raise FileNotFoundError(f"no bank at {options.bank}; captum-kmex fit writes one")
    record = {} if options.bank is None else record_of(PrototypeBank.load(options.bank))
    subject = open_subject(options, record)
    _move_folders(options, subject)
    if options.bank is None:
        attribution = attribution_of(options, subject, n_clusters=options.n_clusters)
    else:
        attribution = LayerKMeansAttribution.load(options.bank, subject.model)
    pictures, skipped = _opened(options, subject)
    train_set = None
    if options.train is not None:
        train_set = NamedPictures(training_set(options.train, record, subject.preprocessing))
    return Explanandum(subject, attribution, pictures, skipped, train_set)


def _move_folders(options: argparse.Namespace, subject: Subject) -> None:
    """Take folders of pictures from the end of the layers' names, which they follow."""
    known = {name for name, _ in subject.model.named_modules()}
    layers = options.layers or []
    taken: list[Path] = []
    while len(layers) > 1 and layers[-1] not in known and Path(layers[-1]).is_dir():
        taken.insert(0, Path(layers.pop()))
    options.images += taken


def _opened(options: argparse.Namespace, subject: Subject) -> tuple[PictureSet, dict[str, str]]:
    """Return the pictures that can be read, and why others are left out, by name."""
    found = find_pictures(options.images, subject.preprocessing)
    found = _labelled(found, subject, options.quiet)
    unread: dict[Path, str] = {}
    for folder in filter(Path.is_dir, options.images):
        unread |= unread_in(folder)
    for file in found.files:
        unread.pop(file, None)  # named by itself too
    for file, reason in unread.items():
        warn_user(f"{file} is left out: {reason}", SkippedImageWarning)
    checks = looked_at(found, show_progress=False)
    pictures = readable(found, strict=options.strict, show_progress=False, checks=checks)
    faults = zip(found.names(), (check.fault for check in checks), strict=True)
    skipped = {name: fault for name, fault in faults if fault}
    beside = replace(found, files=tuple(unread), labels=())
    skipped |= {
        name: f"{file}: {reason}"
        for name, (file, reason) in zip(beside.names(), unread.items(), strict=True)
    }
    return pictures, dict(sorted(skipped.items()))


def _labelled(pictures: PictureSet, subject: Subject, quiet: bool) -> PictureSet:
    """Give pictures in class folders the classes of these names, or none if there are others."""
    reason = "the folders are not named as the model's classes"
    try:
        classes = folder_classes(pictures.folders, subject)
    except ValueError as error:
        classes, reason = None, str(error)
    if classes is not None:
        return pictures.relabelled(classes)
    say(f"{reason}: pictures have no labels", quiet=quiet)
    return pictures.unlabelled()
