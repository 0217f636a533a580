"""The demo's first part: an ImageNet network on photographs, unfitted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from captum_kmex.attributions.layer_kmeans import LayerKMeansAttribution
from captum_kmex.demo.photographs import PHOTO_LAYERS, load_efficientnet_lite0, load_photographs
from captum_kmex.explanation import Explanation
from captum_kmex.loading.zoos import imagenet_names
from captum_kmex.report import write_report

__all__ = ["explain_photographs"]

_BOTH_WAYS = "cameraman"  # the photograph whose evidence is measured too


def explain_photographs(folder: Path, show_progress: bool) -> str:
    """Explain the packaged photographs into a folder, and return what to say of them."""
    names, pictures, inputs = load_photographs()
    classes = imagenet_names()
    attribution = LayerKMeansAttribution(load_efficientnet_lite0(), PHOTO_LAYERS, n_clusters=12)
    folder.mkdir(exist_ok=True)
    lines = [
        "## An ImageNet CNN on photographs, unfitted\n",
        f"EfficientNet-Lite0, layers {', '.join(PHOTO_LAYERS)}; one forward pass an image, no "
        "gradients, no data. The ledger's rows and the bias add up to the logit.\n",
        "| photograph | prediction | p | logit | ledger + bias | picture |",
        "|---|---|---|---|---|---|",
    ]
    for i, name in enumerate(tqdm(names, desc="photographs", disable=not show_progress)):
        result = attribution.explain(inputs[i : i + 1])
        _draw(result, folder / f"{name}.png", classes, pictures[i])
        target = int(result.target[0])
        total = sum(row.evidence for row in result.ledger[0]) + float(result.bias[0])
        share = float(result.logits[0].softmax(0)[target])
        lines.append(
            f"| {name} | {classes[target]} | {share:.2f} | {float(result.output[0]):.4f} | "
            f"{total:.4f} | photographs/{name}.png |"
        )
    i = names.index(_BOTH_WAYS)
    measured = attribution.explain(inputs[i : i + 1], evidence="measured")
    _draw(measured, folder / f"{_BOTH_WAYS}-measured.png", classes, pictures[i])
    samples = [(x, None, name) for x, name in zip(inputs, names, strict=True)]
    write_report(
        attribution,
        samples,
        folder / "report.html",
        class_names=classes,
        picture=_picture,
        title="An ImageNet CNN on photographs",
        show_progress=False,
    )
    return "\n".join([*lines, "", _said_of(measured)])


def _draw(
    result: Explanation, path: Path, classes: Sequence[str], picture: NDArray[np.uint8]
) -> None:
    figure, _ = result.plot(class_names=classes, image=picture)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _picture(x: Tensor) -> NDArray[np.float64]:
    shown: NDArray[np.float64] = (x.permute(1, 2, 0).double() / 2 + 0.5).clamp(0, 1).numpy()
    return shown


def _said_of(measured: Explanation) -> str:
    enough = measured.sufficient()
    kept = "none of them alone" if enough is None else f"{len(enough)} of them"
    return (
        f"The {_BOTH_WAYS} both ways: photographs/{_BOTH_WAYS}.png, allocated in that pass, and "
        f"photographs/{_BOTH_WAYS}-measured.png, where parts were removed and the last layers run "
        f"again. Of its {len(measured.ledger[0])} segments {kept} keep the class. All six "
        "photographs in one page: photographs/report.html.\n"
    )
