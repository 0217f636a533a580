"""``captum-kmex fit``: prototypes of a model from a folder of pictures a class."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

import torch
from torch.utils.data import DataLoader

from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.classes import predicted_classes
from captum_kmex.cli.answer import Answer, say, table
from captum_kmex.cli.open_model import (
    Subject,
    attribution_of,
    folder_classes,
    open_subject,
)
from captum_kmex.cli.options import (
    Commands,
    add_batch_size,
    add_command,
    add_image_options,
    add_layers,
    add_model,
    add_option,
    add_runtime,
    byte_count,
)
from captum_kmex.cli.output import check_file
from captum_kmex.cli.provenance import noted
from captum_kmex.data.labels import Labels
from captum_kmex.files.atomic import discard_unfinished
from captum_kmex.loading.pictures import PictureSet, class_folders, readable
from captum_kmex.text.counts import counted
from captum_kmex.text.plain import printable

__all__ = ["register", "run"]

_LABELS: dict[str, Labels] = {"folder": "target", "predicted": "predicted", "none": None}


def register(commands: Commands) -> None:
    """Add the command's words."""
    parser = add_command(
        commands,
        "fit",
        run,
        "find the prototypes of each class in a folder of pictures",
        "Cluster the features of each class of DATA, which holds one folder of pictures a class, "
        "named in the alphabetical order of the logits, and write the prototypes to a file.",
    )
    add_model(parser)
    parser.add_pictures("data", "DATA", is_one=True, text="folder of class folders")
    parser.add_argument(
        "--output", type=Path, default=Path("bank.safetensors"), help="(default bank.safetensors)"
    )
    add_layers(parser)
    add_option(parser, "n_prototypes", "K", "a class (default %(default)s)")
    parser.add_argument(
        "--labels",
        choices=list(_LABELS),
        default="folder",
        help="class of a picture: its folder, what the model predicts, or none: one set of "
        "prototypes for all (default folder)",
    )
    _add_scale(parser)
    add_image_options(parser)
    add_runtime(parser)


def _add_scale(parser: argparse.ArgumentParser) -> None:
    """Add what large data sets need."""
    add_option(parser, "limit", "N", "pictures a class, drawn at random")
    add_option(parser, "refine", "N", "exact passes over all rows (default %(default)s)")
    add_option(parser, "memory_budget", "BYTES", "(default 2GiB)", byte_count)
    parser.add_argument(
        "--checkpoint", type=Path, help="file for the progress; the same command goes on from it"
    )
    add_batch_size(parser)
    add_option(parser, "workers", "N", "processes that load pictures (default %(default)s)")


def run(options: argparse.Namespace) -> Answer:
    """Fit and save."""
    check_file(options.output)
    if options.checkpoint is not None:
        check_file(options.checkpoint, "--checkpoint")
    subject = open_subject(options)
    found = class_folders(options.data, subject.preprocessing)
    subject, found = _matched(options, subject, found)
    found = found if options.limit is None else found.limited(options.limit, options.seed)
    pictures = readable(found, strict=options.strict, show_progress=not options.quiet)
    bank = _fitted(options, subject, pictures)
    drawn = {"limit": options.limit, "seed": options.seed}
    skipped = sorted({*found.names()} - {*pictures.names()})
    bank = noted(bank, options.model, subject, pictures, drawn, skipped)
    discard_unfinished(options.output)
    bank.save(options.output)
    return _answer(options.output, bank, skipped)


def _fitted(options: argparse.Namespace, subject: Subject, pictures: PictureSet) -> PrototypeBank:
    attribution = attribution_of(options, subject, n_prototypes=options.n_prototypes)
    loader = DataLoader(pictures, options.batch_size, num_workers=options.workers)
    classes = None
    if options.labels == "folder":
        classes = sorted({*pictures.labels})
    elif options.labels == "predicted":
        classes = _predicted(subject, loader)
    attribution.fit(
        loader,
        labels=_LABELS[options.labels],
        classes=classes,
        refine=options.refine,
        memory_budget=options.memory_budget,
        checkpoint=options.checkpoint,
        show_progress=not options.quiet,
    )
    return attribution.bank_


def _matched(
    options: argparse.Namespace, subject: Subject, pictures: PictureSet
) -> tuple[Subject, PictureSet]:
    """Bring folders and logits together: by name where names are known, else by order."""
    if options.labels != "folder":
        return subject, pictures
    folders = pictures.folders
    found = folder_classes(folders, subject)
    if found is not None:
        return subject, pictures.relabelled(found)
    if len(folders) != subject.n_classes:
        raise ValueError(
            f"{options.data} has {len(folders)} class folders, the model {subject.n_classes} "
            "classes; give its training set, --class-names with the folders' names in the order "
            "of the logits, or --labels predicted"
        )
    if options.class_names is not None:
        unknown = [folder for folder in folders if not subject.numbered(folder)]
        raise ValueError(f"{options.class_names} lacks the folders {unknown[:5]}; complete it")
    say(f"classes: {', '.join(folders[:8])}{', ...' * (len(folders) > 8)}", quiet=options.quiet)
    named = Subject(subject.model, subject.device, subject.preprocessing, tuple(folders))
    return named, pictures


def _predicted(subject: Subject, loader: DataLoader[object]) -> list[int]:
    """Return the classes that the model predicts of any picture."""
    found: set[int] = set()
    with torch.inference_mode():
        for batch in loader:
            logits = subject.model(batch[0].to(subject.device))
            found.update(predicted_classes(logits).tolist())
    return sorted(found)


def _answer(path: Path, bank: PrototypeBank, skipped: list[str]) -> Answer:
    depths = [
        {"layers": list(bank.layers[i:]), "prototypes": len(book.centroids)}
        for i, book in enumerate(bank.codebooks)
    ]
    count = cast("int", bank.provenance["n_images"])
    data = {"bank": str(path), "images": count, "skipped": skipped, "depths": depths}
    r2 = None if bank.surrogate is None else bank.surrogate.r2
    left_out = f", {len(skipped)} left out" if skipped else ""
    lines = [
        f"{printable(str(path))}: fitted on {counted(count, 'picture')}{left_out}",
        table([(" + ".join(bank.layers[i:]), counted(len(book.centroids), "prototype"))
               for i, book in enumerate(bank.codebooks)]),
    ]  # fmt: skip
    if r2 is not None:
        lines.append(f"no linear head: maps show a surrogate of the logits, R2 = {r2:.3f}")
    return Answer(data | {"surrogate_r2": r2}, "\n".join(lines))
