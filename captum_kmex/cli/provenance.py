"""What a fit from the command line notes in its bank, for the commands that read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.cli.open_model import Subject
from captum_kmex.loading.pictures import PictureSet, class_folders
from captum_kmex.loading.preprocessing import Preprocessing

__all__ = ["noted", "record_of", "training_set"]

_KEY = "command_line"


def noted(
    bank: PrototypeBank,
    model: str,
    subject: Subject,
    pictures: PictureSet,
    drawn: Mapping[str, object],
    skipped: Sequence[str],
) -> PrototypeBank:
    """Return the bank with a note of its pictures in the provenance.

    Args:
        bank: The fitted bank.
        model: The model's name on the command line.
        subject: The model.
        pictures: What it was fitted on.
        drawn: How they were drawn from their folder: ``limit`` and ``seed``.
        skipped: Names of the files that could not be read.
    """
    record = {
        "model": model,
        "preprocessing": subject.preprocessing.describe(),
        "class_names": None if subject.class_names is None else list(subject.class_names),
        "pictures": {
            "count": len(pictures),
            "sha256": pictures.digest(),
            "skipped": list(skipped),
            **drawn,
        },
    }
    return dataclasses.replace(bank, provenance={**bank.provenance, _KEY: record})


def record_of(bank: PrototypeBank) -> Mapping[str, object]:
    """Return the note of a bank; an empty one if it was not fitted from the command line."""
    record = bank.provenance.get(_KEY)
    return record if isinstance(record, Mapping) else {}


def training_set(
    root: Path, record: Mapping[str, object], preprocessing: Preprocessing
) -> PictureSet:
    """Find the pictures of a fit again.

    Args:
        root: Its folder of class folders.
        record: The bank's note.
        preprocessing: From a picture to its input.

    Raises:
        ValueError: They are others, or the bank has no note of them.
    """
    about = record.get("pictures")
    if not isinstance(about, Mapping):
        raise ValueError(
            "the bank does not say which pictures it was fitted on; leave out --train, or fit "
            "with captum-kmex"
        )
    limit, seed, skipped = about.get("limit"), about.get("seed"), about.get("skipped")
    if not (isinstance(limit, int | None) and isinstance(seed, int) and isinstance(skipped, list)):
        raise ValueError("the bank's note of its pictures is damaged; leave out --train")
    pictures = class_folders(root, preprocessing)
    if limit is not None:
        pictures = pictures.limited(limit, seed)
    pictures = pictures.without([str(name) for name in skipped])
    if len(pictures) != about.get("count") or pictures.digest() != about.get("sha256"):
        raise ValueError(
            f"{root} holds other pictures than the bank was fitted on ({len(pictures)} of "
            f"{about.get('count')} by number, or other names); give the folder of the fit, "
            "unchanged"
        )
    return pictures
