"""``write_report``: from a model and a data set to one HTML file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch
from matplotlib.colors import to_hex
from tqdm.auto import tqdm

from captum_kmex.arguments import checked
from captum_kmex.attributions.layer_kmeans import LayerKMeansAttribution
from captum_kmex.attributions.one_bank import one_bank_a_call
from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.classes import class_count
from captum_kmex.files.atomic import discard_unfinished, written_whole
from captum_kmex.report.evidence import BatchEvidence, explain_batch
from captum_kmex.report.overview import describe_depths, overview_scores, provenance
from captum_kmex.report.page import Page
from captum_kmex.report.patches import PatchPictures, check_train_set
from captum_kmex.report.pictures import PictureOf
from captum_kmex.report.prototypes import group_records
from captum_kmex.report.records import image_record
from captum_kmex.report.samples import Samples, read_batches
from captum_kmex.report.tally import Tally
from captum_kmex.text.class_names import ClassNames, read_class_names
from captum_kmex.visualization import picture as default_picture
from captum_kmex.visualization.colors import DIVERGING, PALETTE

__all__ = ["write_report"]

_NO_IMAGES = "there are no images to report; pass a data set with at least one"
_SHADES = 15  # of the map, blue to red


@checked
@one_bank_a_call
def write_report(
    attribution: LayerKMeansAttribution,
    images: Sequence[object],
    path: str | os.PathLike[str],
    *,
    train_set: Sequence[object] | None = None,
    class_names: ClassNames | None = None,
    picture: PictureOf | None = None,
    title: str | None = None,
    batch_size: int = 16,
    show_progress: bool = True,
) -> Path:
    """Write an interactive report of a model on some images: one file that needs no network.

    Images are read and written batch by batch, so memory does not grow with their number.

    Args:
        attribution: Fitted, or not: the report then has no prototypes.
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

    Returns:
        The path.

    Raises:
        ValueError: No images, images of several sizes, labels out of range, too few or too
            many class names, or another training set than the fit's.
        NotFittedError: The model has no linear head, and ``fit`` has not been called.
        OSError: The file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from torch import nn
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ...     nn.Linear(4, 2)).eval()
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
    bank = attribution.bank_ if attribution.is_fitted else None
    if bank is not None and train_set is not None:
        check_train_set(bank, train_set)
    class_names = None if class_names is None else read_class_names(class_names)
    picture = picture or default_picture
    title = title or f"{type(attribution.model).__name__} explained"
    path = Path(path)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    discard_unfinished(path)
    with (
        written_whole(path) as unfinished,
        unfinished.open("w", encoding="utf-8", newline="\n") as file,  # as hashed in the policy
    ):
        page = Page(file, title)
        with tqdm(total=len(images), desc="report", disable=not show_progress) as bar:
            found = _explained(attribution, read_batches(images, batch_size), bar)
            tally = _write_images(page, found, bank, class_names, picture)
        if bank is not None:
            patches = PatchPictures(bank, train_set, picture)
            for group, record in group_records(bank, tally, patches):
                page.add(f"group-{group}", record)
        page.add("report", _overview(attribution, bank, tally, class_names))
        page.finish()
    return path


def _explained(
    attribution: LayerKMeansAttribution, batches: Iterable[Samples], bar: tqdm[NoReturn]
) -> Iterator[tuple[Samples, BatchEvidence]]:
    """Yield each batch with its evidence."""
    device = next(attribution.model.parameters(), torch.empty(0)).device
    for samples in batches:
        found = explain_batch(attribution, samples.inputs.to(device), samples.labels)
        yield replace(samples, labels=samples.labels.long()), found
        bar.update(len(samples))


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
    attribution: LayerKMeansAttribution,
    bank: PrototypeBank | None,
    tally: Tally,
    class_names: tuple[str, ...] | None,
) -> dict[str, object]:
    names = class_names or [f"class {c}" for c in range(tally.n_classes)]
    shades = DIVERGING.resampled(_SHADES)
    return {
        "classNames": list(names),
        "isFitted": bank is not None,
        "isAgnostic": bank is not None and bank.codebooks[0].is_agnostic,
        "r2": attribution.surrogate_r2,
        "depths": describe_depths(attribution.layer_names, bank, tally),
        "provenance": provenance(attribution),
        "colors": list(PALETTE),
        "shades": [to_hex(shades(i)) for i in range(_SHADES)],
        **overview_scores(tally),
    }
