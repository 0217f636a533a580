"""The result of ``explain``: its data, drawn and saved."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from captum_kmex.arguments import checked, resolve_index
from captum_kmex.explaining.result import FORMAT, ExplanationData
from captum_kmex.explaining.summary import ledger_table, summary
from captum_kmex.files.folders import folder_written_whole, repair
from captum_kmex.text.class_names import ClassNames, read_class_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure
    from PIL.Image import Image

__all__ = ["Explanation", "check_replaceable", "own_files"]


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(ExplanationData):
    """Everything ``explain`` found about a batch, with its pictures and its folder of files.

    Its data are those of ``ExplanationData``. ``result[0]`` is the explanation of one image, and
    ``for one in result`` goes through all; at the end of a notebook's cell it shows itself.
    """

    @checked
    def plot(
        self,
        index: int = 0,
        *,
        dataset: Sequence[object] | None = None,
        class_names: ClassNames | None = None,
        image: np.ndarray | None = None,
        scale: float | None = None,
        smooth: bool = False,
        figure: Figure | SubFigure | None = None,
    ) -> tuple[Figure, np.ndarray]:
        """Draw one image's explanation: image, segments, map, ledger, nearest patches.

        Args:
            index: Which image of the batch.
            dataset: The training set of the fit, for the nearest patches.
            class_names: Names of the classes: a sequence in the order of the logits (list, tuple,
                array, pandas Series), ``id2label`` or ``class_to_idx``.
            image: The picture to show, (H, W) or (H, W, 3); by default the input, rescaled.
            scale: The map's value of full colour, by default its own largest; images compare
                on ``visualization.evidence_scale(result.attribution)``.
            smooth: Interpolate between the cells of the map.
            figure: Where to draw; by default a new figure.

        Returns:
            The figure and its axes.
        """
        from captum_kmex.visualization import plot_explanation

        return plot_explanation(
            self, index, dataset, class_names, image, scale=scale, smooth=smooth, figure=figure
        )

    @checked
    def overlay(
        self,
        index: int = 0,
        kind: str = "map",
        *,
        image: np.ndarray | None = None,
        scale: float | None = None,
        smooth: bool = False,
    ) -> Image:
        """Return the map, or the segments, over the picture in grey: a PIL image.

        Args:
            index: Which image of the batch.
            kind: ``"map"`` or ``"segments"``.
            image: The picture, (H, W) or (H, W, 3), in whose size all is drawn; by default the
                input, rescaled.
            scale: The map's value of full colour, as in ``plot``.
            smooth: Interpolate between the cells of the map.

        Returns:
            An RGB image of the picture's size.
        """
        from captum_kmex.visualization.overlays import overlay

        return overlay(self, index, kind, image, scale=scale, smooth=smooth)

    @checked
    def ledger_table(
        self, index: int = 0, class_names: ClassNames | None = None
    ) -> list[dict[str, object]]:
        """Return an image's ledger as one dict a row; ``pandas.DataFrame(...)`` takes it as it is.

        Args:
            index: Which image of the batch.
            class_names: As in ``plot``.

        Returns:
            Rows, largest absolute evidence first, with ``number``, from 1, as in all pictures;
            ``prototype``, such as "cat #1", and its ``class``, or ``None``; ``area``, 0 to 1;
            ``evidence``, in logit units; ``segment``, the id in ``segments``, and
            ``prototype_index``, in the bank. Measured evidence has also ``error``, ``is_clear``,
            ``removed`` and ``kept``, as in ``LedgerRow``; ``ties``, as numbers; and whether the
            row is ``enough`` and ``needed``: one of those that ``sufficient`` and ``necessary``
            return, or ``None`` where these return it.
        """
        index = resolve_index("index", index, len(self))
        return ledger_table(self, index, self.class_names if class_names is None else class_names)

    def __repr__(self) -> str:
        return "Explanation: " + "\n  ".join(summary(self))

    def _repr_html_(self) -> str:
        from captum_kmex.visualization.notebook import explanation_html

        return explanation_html(self)

    def _repr_png_(self) -> bytes:
        from captum_kmex.visualization.notebook import explanation_png

        return explanation_png(self, 0)

    @checked
    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        dataset: Sequence[object] | None = None,
        class_names: ClassNames | None = None,
        images: Sequence[np.ndarray] | None = None,
        names: Sequence[str] | None = None,
        figures: bool = True,
    ) -> None:
        """Write ``arrays.npz``, ``manifest.json`` and one figure an image into a folder.

        The folder appears complete or not at all; one that exists is replaced only if it
        holds an earlier explanation, which a process killed at any moment does not lose.

        Args:
            folder: Where to write.
            dataset: The training set of the fit, for the nearest patches.
            class_names: Names of the classes: a sequence in the order of the logits (list, tuple,
                array, pandas Series), ``id2label`` or ``class_to_idx``.
            images: The pictures to show, one an image, (H, W) or (H, W, 3); by default the
                inputs, rescaled.
            names: A name for each figure's file, without ending; by default ``0000`` and on.
            figures: Draw the figures.

        Raises:
            FileExistsError: The folder holds something else.
            ValueError: Not one picture or name an image, or a name is no file's, or another's too.
        """
        if images is not None and len(images) != len(self):
            raise ValueError(
                f"{len(images)} images for {len(self)} explanations; give one picture of each"
            )
        files = _figure_files(names, len(self)) if figures else [None] * len(self)
        folder = Path(folder).resolve()
        repair(folder)
        check_replaceable(folder)
        with folder_written_whole(folder) as work:
            self._write(work, dataset, class_names, images, files)

    def _write(
        self,
        folder: Path,
        dataset: Sequence[object] | None,
        class_names: ClassNames | None,
        images: Sequence[np.ndarray] | None,
        files: Sequence[str | None],
    ) -> None:
        from matplotlib import pyplot as plt

        class_names = None if class_names is None else read_class_names(class_names)
        arrays: dict[str, Any] = self.arrays()
        np.savez_compressed(folder / "arrays.npz", **arrays)
        manifest: dict[str, Any] = self.manifest()
        for image, file in zip(manifest["images"], files, strict=True):
            image["picture"] = file
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for i, file in enumerate(files):
            if file is None:
                continue
            image = None if images is None else images[i]
            figure, _ = self.plot(i, dataset=dataset, class_names=class_names, image=image)
            with warnings.catch_warnings():  # a hint has said so, once for all letters
                warnings.filterwarnings("ignore", "Glyph .* missing from")
                figure.savefig(folder / file, dpi=120)
            plt.close(figure)


def _figure_files(names: Sequence[str] | None, count: int) -> list[str]:
    """Return the file of each figure: of its name, or of its number."""
    if names is None:
        return [f"{i:04d}.png" for i in range(count)]
    if len(names) != count or len({name.casefold() for name in names}) != count:
        raise ValueError(f"{len(names)} names for {count} figures; give each its own")
    for name in names:
        if not name or set(name) & {"/", os.sep, "\0"}:
            raise ValueError(f"{name!r} is no name of a file; leave out folders")
    return [f"{name}.png" for name in names]


def check_replaceable(folder: Path) -> None:
    """Raise ``FileExistsError`` unless a folder is new, empty or all our own."""
    if not folder.exists():
        return
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if found and found != own_files(folder):
        raise FileExistsError(f"{folder} holds other files; choose a new or empty folder")


def own_files(folder: Path) -> set[str]:
    """Return the names of the files that a saved explanation's manifest lists, if it is one."""
    manifest = folder / "manifest.json"
    try:
        if not manifest.is_file():
            return set()
        content = json.loads(manifest.read_text())
        if content["format"] != FORMAT:
            return set()
        pictures = {image["picture"] for image in content["images"]}
        return {"manifest.json", content["arrays"], *pictures} - {None}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
