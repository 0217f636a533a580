"""``captum-kmex report``: one HTML file about a model's explanations of pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from captum_kmex.cli.answer import Answer
from captum_kmex.cli.open_inputs import add_evidence, add_words, open_explanandum
from captum_kmex.cli.options import Commands, add_batch_size, add_command
from captum_kmex.cli.output import check_file, check_folder
from captum_kmex.loading.pictures import NamedPictures
from captum_kmex.report import write_report
from captum_kmex.text.counts import counted
from captum_kmex.text.plain import printable

__all__ = ["register", "run"]


def register(commands: Commands) -> None:
    """Add the command's words."""
    parser = add_command(
        commands,
        "report",
        run,
        "write one HTML page about a model's explanations",
        "Explain pictures and write one self-contained HTML page to look through; with --bank and "
        "--train, with the training patches nearest to each prototype.",
    )
    add_words(parser)
    add_batch_size(parser)
    add_evidence(parser)
    parser.add_argument("--title", help="of the page")
    parser.add_argument(
        "--output", type=Path, default=Path("report.html"), help="(default report.html)"
    )


def run(options: argparse.Namespace) -> Answer:
    """Write the page."""
    check_folder(options.output.parent)
    if options.output.absolute().parent.is_dir():
        check_file(options.output)
    given = open_explanandum(options)
    path = write_report(
        given.attribution,
        NamedPictures(given.pictures),
        options.output,
        train_set=given.train_set,
        class_names=given.subject.class_names,
        picture=given.subject.preprocessing.picture,
        title=options.title,
        batch_size=options.batch_size,
        show_progress=not options.quiet,
        evidence=options.evidence,
    )
    data = {
        "report": str(path),
        "images": len(given.pictures),
        "skipped": list(given.skipped),
        "why_skipped": given.skipped,
    }
    return Answer(data, f"{printable(str(path))}: {counted(len(given.pictures), 'picture')}")
