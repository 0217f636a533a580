"""The result of ``explain``: maps, segments, scores and the ledger, frozen."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from captum_kmex.arguments import checked
from captum_kmex.explaining.ledger import LedgerRow
from captum_kmex.files.folders import folder_written_whole, repair
from captum_kmex.text.class_names import ClassNames, read_class_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["Explanation", "check_replaceable", "own_files"]

SCHEMA_VERSION = 1
_FORMAT = "captum_kmex.explanation"


@dataclass(frozen=True)
class Explanation:
    """Everything ``explain`` found about a batch.

    Attributes:
        inputs: The images (N, C, H, W).
        layers: Layers of the depth explained, shallow to deep.
        target: Explained class (N,).
        contrast: Class it is contrasted with (N,), or ``None``.
        logits: The model's logits (N, J).
        attribution: Map (N, 1, h, w) in logit units.
        segments: Segment of each pixel (N, h, w).
        ledger: Rows of each image, largest absolute evidence first; they add up to output
            minus bias.
        bias: What no pixel accounts for (N,).
        output: The explained logit, or difference of logits (N,).
        class_scores: Score of each class (N, C) by the attribution's ``vote``, if fitted.
        prediction: The class of the highest score (N,), if fitted.
        restricted: Only prototypes of the explained class competed for the pixels.
        surrogate_r2: If the model has no linear head: the R2 of the ridge surrogate that
            stands in for it; ``delta`` is what it misses.
    """

    inputs: Tensor
    layers: tuple[str, ...]
    target: Tensor
    contrast: Tensor | None
    logits: Tensor
    attribution: Tensor
    segments: Tensor
    ledger: tuple[tuple[LedgerRow, ...], ...]
    bias: Tensor
    output: Tensor
    class_scores: Tensor | None = None
    prediction: Tensor | None = None
    restricted: bool = False
    surrogate_r2: float | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def delta(self) -> Tensor:
        """Sum of the map plus bias minus output (N,): 0 where the map is complete."""
        return self.attribution.flatten(1).sum(1) + self.bias - self.output

    @checked
    def plot(
        self,
        index: int = 0,
        *,
        dataset: Sequence[object] | None = None,
        class_names: ClassNames | None = None,
        image: np.ndarray | None = None,
        scale: float | None = None,
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
            figure: Where to draw; by default a new figure.

        Returns:
            The figure and its axes.
        """
        from captum_kmex.visualization import plot_explanation

        return plot_explanation(
            self, index, dataset, class_names, image, scale=scale, figure=figure
        )

    @checked
    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        dataset: Sequence[object] | None = None,
        class_names: ClassNames | None = None,
        images: Sequence[np.ndarray] | None = None,
    ) -> None:
        """Write ``arrays.npz``, ``manifest.json`` and one picture an image into a folder.

        The folder appears complete or not at all; one that exists is replaced only if it
        holds an earlier explanation, which a process killed at any moment does not lose.

        Args:
            folder: Where to write.
            dataset: The training set of the fit, for the nearest patches.
            class_names: Names of the classes: a sequence in the order of the logits (list, tuple,
                array, pandas Series), ``id2label`` or ``class_to_idx``.
            images: The pictures to show, one an image, (H, W) or (H, W, 3); by default the
                inputs, rescaled.

        Raises:
            FileExistsError: The folder holds something else.
            ValueError: Not one picture an image.
        """
        if images is not None and len(images) != len(self):
            raise ValueError(
                f"{len(images)} images for {len(self)} explanations; give one picture of each"
            )
        folder = Path(folder).resolve()
        repair(folder)
        check_replaceable(folder)
        with folder_written_whole(folder) as work:
            self._write(work, dataset, class_names, images)

    def _write(
        self,
        folder: Path,
        dataset: Sequence[object] | None,
        class_names: ClassNames | None,
        images: Sequence[np.ndarray] | None,
    ) -> None:
        from matplotlib import pyplot as plt

        class_names = None if class_names is None else read_class_names(class_names)
        arrays: dict[str, Any] = self._arrays()
        np.savez_compressed(folder / "arrays.npz", **arrays)
        (folder / "manifest.json").write_text(json.dumps(self.manifest(), indent=1))
        for i in range(len(self)):
            image = None if images is None else images[i]
            figure, _ = self.plot(i, dataset=dataset, class_names=class_names, image=image)
            with warnings.catch_warnings():  # a hint has said so, once for all letters
                warnings.filterwarnings("ignore", "Glyph .* missing from")
                figure.savefig(folder / f"{i:04d}.png", dpi=120)
            plt.close(figure)

    def _arrays(self) -> dict[str, np.ndarray]:
        names = ("target", "contrast", "logits", "attribution", "segments", "bias", "output")
        tensors = {name: getattr(self, name) for name in (*names, "class_scores", "prediction")}
        return {
            name: tensor.cpu().numpy() for name, tensor in tensors.items() if tensor is not None
        }

    def manifest(self) -> dict[str, object]:
        """Return what can be said in JSON: the ledger and its sums, image by image."""
        images = []
        for i, rows in enumerate(self.ledger):
            contrast = None if self.contrast is None else int(self.contrast[i])
            images.append(
                {
                    "target": int(self.target[i]),
                    "contrast": contrast,
                    "output": float(self.output[i]),
                    "bias": float(self.bias[i]),
                    "delta": float(self.delta[i]),
                    "prediction": None if self.prediction is None else int(self.prediction[i]),
                    "picture": f"{i:04d}.png",
                    "ledger": [asdict(row) for row in rows],
                }
            )
        return {
            "format": _FORMAT,
            "schema_version": SCHEMA_VERSION,
            "layers": list(self.layers),
            "restricted": self.restricted,
            "units": "logit",
            "surrogate_r2": self.surrogate_r2,
            "arrays": "arrays.npz",
            "images": images,
        }


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
        if content["format"] != _FORMAT:
            return set()
        pictures = {image["picture"] for image in content["images"]}
        return {"manifest.json", content["arrays"], *pictures}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
