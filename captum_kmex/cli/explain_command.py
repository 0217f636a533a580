"""``captum-kmex explain``: a folder of arrays, JSON and a figure for each picture."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_kmex.arguments.measured import Measured
from captum_kmex.classes import class_logits, class_of_logit, predicted_classes
from captum_kmex.cli.answer import Answer, say, table
from captum_kmex.cli.open_inputs import (
    Explanandum,
    add_evidence,
    add_words,
    open_explanandum,
)
from captum_kmex.cli.open_model import class_index
from captum_kmex.cli.options import Commands, add_batch_size, add_command
from captum_kmex.cli.output import check_file, check_folder, figure_name, folder_names
from captum_kmex.explanation import Explanation, check_replaceable
from captum_kmex.files.atomic import discard_unfinished, written_whole
from captum_kmex.files.folders import repair
from captum_kmex.loading.pictures import open_picture
from captum_kmex.text.counts import counted
from captum_kmex.text.plain import printable

__all__ = ["register", "run"]

_PARTS = ("bias", "not_linear", "evidence")  # of an output


def register(commands: Commands) -> None:
    """Add the command's words."""
    parser = add_command(
        commands,
        "explain",
        run,
        "explain pictures: segments, evidence, ledger",
        "Explain a logit of each picture by concept segments: a figure, arrays and JSON in a "
        "folder of its own. Without a bank, segments are clusters of the picture itself.",
    )
    add_words(parser)
    parser.add_argument("--target", metavar="CLASS", help="number or name; default: the predicted")
    parser.add_argument("--contrast", metavar="CLASS", help="why not this one")
    parser.add_argument(
        "--depth", default="0", help="shallowest layer to use, name or position (default 0: all)"
    )
    add_evidence(parser)
    add_batch_size(parser, 1)
    parser.add_argument("--no-figure", action="store_true", help="write arrays and JSON alone")
    parser.add_argument(
        "--output", type=Path, default=Path("explained"), help="folder (default explained)"
    )


def run(options: argparse.Namespace) -> Answer:
    """Explain and save, picture by picture, so that memory does not grow with their number."""
    index = options.output / "index.json"
    check_folder(options.output)
    if options.output.is_dir():
        check_file(index)
    given = open_explanandum(options)
    folders = _free_folders(options.output, given)
    rows = list(_explained(options, given, folders))
    same = sum(row["target"] == row["contrast"] for row in rows)
    if same:
        pictures = counted(len(rows), "picture")
        note = f"predicted as the contrast itself, zero maps: {same} of {pictures}"
        say(f"{note}; give --target too", quiet=options.quiet)
    data = {
        "output": str(options.output),
        "images": rows,
        "skipped": list(given.skipped),
        "why_skipped": given.skipped,
        "layers": list(given.attribution.bank_.layers)
        if given.attribution.is_fitted
        else given.attribution.layers,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    discard_unfinished(index)
    with written_whole(index) as unfinished:
        unfinished.write_text(json.dumps(data, indent=1) + "\n")
    return Answer(data, _text(options.output, rows))


def _free_folders(output: Path, given: Explanandum) -> list[Path]:
    """Return a folder for each picture, none of which holds anything but an explanation."""
    folders = [output / name for name in folder_names(given.pictures.names())]
    for folder in folders:
        repair(folder)
        check_replaceable(folder)
    return folders


def _explained(
    options: argparse.Namespace, given: Explanandum, folders: Sequence[Path]
) -> Iterator[dict[str, object]]:
    subject = given.subject
    target = class_index(options.target, subject)
    contrast = class_index(options.contrast, subject)
    evidence = _evidence(options, len(folders))
    for places, pictures in _batches(options, given, folders):
        result = given.attribution.explain(
            torch.stack(pictures).to(subject.device),
            target,
            depth=_depth(options.depth),
            contrast=contrast,
            evidence=evidence,
        )
        for place, x, one in zip(places, pictures, result, strict=True):
            figure = figure_name(place.name)
            one.save(
                place.folder,
                dataset=given.train_set,
                class_names=subject.class_names,
                images=[subject.preprocessing.picture(x)],
                names=[figure],
                figures=not options.no_figure,
            )
            yield {
                "image": str(place.file),
                "name": place.name,
                "folder": str(place.folder),
                "figure": None if options.no_figure else str(place.folder / f"{figure}.png"),
            } | _summary(one, subject.class_names)


@dataclass(frozen=True)
class _Place:
    """A picture's file and name, and the folder for its explanation."""

    file: Path
    name: str
    folder: Path


def _batches(
    options: argparse.Namespace, given: Explanandum, folders: Sequence[Path]
) -> Iterator[tuple[list[_Place], list[Tensor]]]:
    """Read as many pictures at a time as one forward pass takes."""
    preprocessing = given.subject.preprocessing
    places = [
        _Place(*parts)
        for parts in zip(given.pictures.files, given.pictures.names(), folders, strict=True)
    ]
    with tqdm(total=len(places), desc="explaining", disable=options.quiet) as bar:
        for start in range(0, len(places), options.batch_size):
            some = places[start : start + options.batch_size]
            yield some, [preprocessing(open_picture(place.file, preprocessing)) for place in some]
            bar.update(len(some))


def _evidence(options: argparse.Namespace, n_pictures: int) -> str | Measured:
    """Return how evidence is found; the bar of pictures is enough where there are several."""
    if options.evidence == "allocated":
        return "allocated"
    return Measured(show_progress=n_pictures == 1 and not options.quiet)


def _summary(result: Explanation, names: Sequence[str] | None) -> dict[str, object]:
    """Return what the index says of a picture."""
    predicted = int(predicted_classes(result.logits)[0])
    shares = class_logits(result.logits)[0].softmax(0)
    contrast = None if result.contrast is None else int(result.contrast[0])
    voted = None if result.prediction is None else int(result.prediction[0])

    def name(c: int | None) -> str | None:
        return None if c is None or names is None else names[c]

    target = int(class_of_logit(result.target, result.logits)[0])
    return {
        "predicted": predicted,
        "predicted_name": name(predicted),
        "probability": float(shares[predicted]),
        "target": target,
        "target_name": name(target),
        "contrast": contrast,
        "contrast_name": name(contrast),
        "prototypes_predict": voted,
        "prototypes_predict_name": name(voted),
        "output": float(result.output[0]),
        "bias": float(result.bias[0]),
        "measured": result.evidence == "measured",
        "not_linear": None if result.not_linear is None else float(result.not_linear[0]),
        "evidence": sum(row.evidence for row in result.ledger[0]),
        "delta": float(result.delta[0]),
        "segments": len(result.ledger[0]),
    }


def _text(output: Path, rows: Sequence[dict[str, object]]) -> str:
    is_linear = all(row["not_linear"] is None for row in rows)
    parts = "bias + segments" if is_linear else "bias + not linear + segments"
    head = ("picture", "predicted", "p", "explained", "output", parts, "figure")
    has_figures = any(row["figure"] for row in rows)
    if not has_figures:
        head = (*head[:-1], "folder")
    lines = [head]
    for row in rows:
        share, contrast = row["probability"], row["contrast"]
        explained = _shown(row, "target")
        lines.append(
            (
                str(row["name"]),
                _shown(row, "predicted"),
                "" if share is None else f"{share:.2f}",
                explained if contrast is None else f"{explained}, not {_shown(row, 'contrast')}",
                f"{row['output']:+.4f}",
                f"{sum(float(str(row[key] or 0)) for key in _PARTS):+.4f}",
                str(row["figure"] if has_figures else row["folder"]),
            )
        )
    return f"{table(lines)}\n{printable(str(output / 'index.json'))} lists them"


def _shown(row: dict[str, object], key: str) -> str:
    name = row[f"{key}_name"]
    return f"class {row[key]}" if name is None else str(name)


def _depth(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text
