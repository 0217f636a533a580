"""``write_report``: from a model and a data set to one HTML file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from captum.attr import Attribution
from matplotlib.colors import Colormap, to_hex
from torch import Tensor
from tqdm.auto import tqdm

from captum_kmex.arguments import checked
from captum_kmex.arguments.measured import Measured
from captum_kmex.attributions.one_bank import one_bank
from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.classes import class_count
from captum_kmex.files.atomic import discard_unfinished, written_whole
from captum_kmex.report.evidence import BatchEvidence, explain_batch
from captum_kmex.report.measured import measured_batch
from captum_kmex.report.methods import method_maps, unexplained_batch
from captum_kmex.report.overview import describe_depths, overview_scores, provenance
from captum_kmex.report.page import Page
from captum_kmex.report.patches import PatchPictures, check_train_set
from captum_kmex.report.pictures import PictureOf
from captum_kmex.report.prototypes import group_records
from captum_kmex.report.records import image_record
from captum_kmex.report.samples import Samples, read_batches
from captum_kmex.report.subject import Subject
from captum_kmex.report.tally import Tally
from captum_kmex.text.class_names import ClassNames, read_class_names
from captum_kmex.visualization import picture as default_picture
from captum_kmex.visualization.colors import DIVERGING, PALETTE, SEQUENTIAL

__all__ = ["write_report"]

_NO_IMAGES = "there are no images to report; pass a data set with at least one"
_SHADES = 15  # of a map


@checked
def write_report(
    attribution: Attribution | Mapping[str, Attribution],
    images: Sequence[object],
    path: str | os.PathLike[str],
    *,
    train_set: Sequence[object] | None = None,
    class_names: ClassNames | None = None,
    picture: PictureOf | None = None,
    title: str | None = None,
    batch_size: int = 16,
    show_progress: bool = True,
    evidence: str | Measured = "allocated",
) -> Path:
    """Write an interactive report of a model on some images: one file that needs no network.

    Images are read and written batch by batch, so memory does not grow with their number.

    Args:
        attribution: A ``LayerKMeansAttribution``, fitted or not: the report then has no
            prototypes. Any other of Captum's gives maps without segments; a mapping from names to
            several shows their maps side by side, with the segments of the first of ours.
        images: Data set of float tensors (C, H, W), or tuples (image, label, name), or dicts of
            these; the label may be ``None``, and both may be missing.
        path: The HTML file; it is written whole or not at all.
        train_set: Data set of the fit, in its order, for pictures of the nearest patches.
        class_names: A name for each logit, two for a single one, by its sign; in any form that
            ``Explanation.plot`` takes.
        picture: Makes a picture (H, W) or (H, W, 3), bytes or floats in [0, 1], of an input;
            ``visualization.picture`` if ``None``.
        title: Title of the page.
        batch_size: Images a forward pass.
        show_progress: Show a progress bar.
        evidence: ``"measured"``, or ``Measured(...)``: of all layers stacked, with ± of each row
            and the fewest segments that are enough and needed; some 140 passes an image.

    Returns:
        The path.

    Raises:
        ValueError: No images, images of several sizes, labels out of range, too few or too
            many class names, another training set than the fit's, or a method that makes no
            maps.
        NotFittedError: The model has no linear head, and ``fit`` has not been called.
        OSError: The file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from torch import nn
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ...     nn.Linear(4, 2)).eval()
        >>> from captum_kmex import LayerKMeansAttribution
        >>> attr = LayerKMeansAttribution(model, ["1"], n_clusters=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_report(
        ...         attr, list(torch.rand(3, 1, 8, 8)), f"{folder}/report.html",
        ...         class_names=["cat", "dog"], show_progress=False)
        ...     path.name
        'report.html'
    """
    if len(images) == 0:
        raise ValueError(_NO_IMAGES)
    subject = Subject.of(attribution)
    class_names = None if class_names is None else read_class_names(class_names)
    picture = picture or default_picture
    path = Path(path)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    discard_unfinished(path)
    with (
        one_bank(subject.main),
        written_whole(path) as unfinished,
        unfinished.open("w", encoding="utf-8", newline="\n") as file,  # as hashed in the policy
    ):
        bank = _shown_bank(subject, evidence)
        if bank is not None and train_set is not None:
            check_train_set(bank, train_set)
        page = Page(file, title or f"{subject.name} explained")
        with tqdm(total=len(images), desc="report", disable=not show_progress) as bar:
            found = _explained(subject, evidence, read_batches(images, batch_size), bar)
            tally = _write_images(page, found, bank, class_names, picture)
        if bank is not None:
            patches = PatchPictures(bank, train_set, picture)
            for group, record in group_records(bank, tally, patches):
                page.add(f"group-{group}", record)
        page.add("report", _overview(subject, evidence, bank, tally, class_names))
        page.finish()
    return path


def _shown_bank(subject: Subject, evidence: str | Measured) -> PrototypeBank | None:
    """Return the prototypes of the depths that are shown: of measured evidence, of one."""
    bank = subject.bank
    if bank is None or evidence == "allocated":
        return bank
    return replace(bank, codebooks=bank.codebooks[:1])


def _explained(
    subject: Subject, evidence: str | Measured, batches: Iterable[Samples], bar: tqdm[NoReturn]
) -> Iterator[tuple[Samples, BatchEvidence]]:
    """Yield each batch with its evidence."""
    device = subject.device
    for samples in batches:
        inputs = samples.inputs.to(device)
        found = _evidence(subject, evidence, inputs, samples.labels)
        maps = method_maps(subject.methods, inputs, found)
        yield replace(samples, labels=samples.labels.long()), replace(found, methods=maps)
        bar.update(len(samples))


def _evidence(
    subject: Subject, evidence: str | Measured, inputs: Tensor, labels: Tensor
) -> BatchEvidence:
    if subject.main is None:
        return unexplained_batch(subject.model, inputs, labels)
    if evidence == "allocated":
        return explain_batch(subject.main, inputs, labels)
    return measured_batch(subject.main, inputs, labels, evidence)


def _write_images(
    page: Page,
    found: Iterable[tuple[Samples, BatchEvidence]],
    bank: PrototypeBank | None,
    class_names: tuple[str, ...] | None,
    picture: PictureOf,
) -> Tally:
    """Write a part for each image, and count over all."""
    tally: Tally | None = None
    for samples, evidence in found:
        if tally is None:
            tally = Tally(bank, class_count(evidence.logits.shape[1]))
            if class_names is not None:
                read_class_names(class_names, tally.n_classes)
        tally.add(evidence, samples)
        for i in range(len(samples)):
            record = image_record(samples, evidence, i, picture)
            page.add(f"image-{samples.first + i}", record)
    if tally is None:  # a length, but nothing to read
        raise ValueError(_NO_IMAGES)
    return tally


def _overview(
    subject: Subject,
    evidence: str | Measured,
    bank: PrototypeBank | None,
    tally: Tally,
    class_names: tuple[str, ...] | None,
) -> dict[str, object]:
    names = class_names or [f"class {c}" for c in range(tally.n_classes)]
    main = subject.main
    kind = "allocated" if evidence == "allocated" else "measured"
    layers = () if main is None else main.layer_names
    n_depths = len(layers) if kind == "allocated" else 1
    return {
        "classNames": list(names),
        "isFitted": bank is not None,
        "isAgnostic": bank is not None and bank.codebooks[0].is_agnostic,
        "isMeasured": main is not None and kind == "measured",
        "r2": None if main is None or kind == "measured" else main.surrogate_r2,
        "methods": list(subject.methods),
        "mainName": subject.main_name,
        "depths": describe_depths(layers, n_depths, bank, tally),
        "provenance": provenance(subject, kind),
        "colors": list(PALETTE),
        "shades": _shades(DIVERGING),
        "shadesFor": _shades(SEQUENTIAL),
        **overview_scores(tally),
    }


def _shades(colors: Colormap) -> list[str]:
    few = colors.resampled(_SHADES)
    return [to_hex(few(i)) for i in range(_SHADES)]
