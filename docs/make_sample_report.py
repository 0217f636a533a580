"""Write the report that docs/report.md shows: ``python docs/make_sample_report.py`` (a minute).

Needs the extra ``demo``, and the project on the path. Its photographs come with scikit-image and
scikit-learn, as those of the gallery; nothing else is needed, and the file holds no other data.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from captum.attr import LayerGradCam
from numpy.typing import NDArray
from torch import Tensor

from captum_kmex import LayerKMeansAttribution
from captum_kmex.demo import PHOTO_LAYERS, load_efficientnet_lite0, load_photographs
from captum_kmex.loading.zoos import imagenet_names
from captum_kmex.report import write_report

FILE = Path(__file__).parent / "_static" / "sample_report.html"
LARGEST = 1_500_000  # bytes


def picture(x: Tensor) -> NDArray[np.float64]:
    """Return an input as the photograph that it was."""
    return (x.permute(1, 2, 0).double().numpy() * 0.5 + 0.5).clip(0, 1)


def main() -> None:
    """Explain six photographs by measured evidence, with Grad-CAM beside, and write the page."""
    names, _, inputs = load_photographs()
    net = load_efficientnet_lite0()
    methods = {
        "measured segments": LayerKMeansAttribution(net, PHOTO_LAYERS, n_clusters=12),
        "Grad-CAM": LayerGradCam(net, net.get_submodule(PHOTO_LAYERS[-1])),
    }
    samples = [(x, None, name) for x, name in zip(inputs, names, strict=True)]
    write_report(
        methods,
        samples,
        FILE,
        class_names=imagenet_names(),
        picture=picture,
        title="Six photographs, explained",
        evidence="measured",
    )
    size = FILE.stat().st_size
    if size > LARGEST:
        raise ValueError(
            f"{FILE} has {size:,} bytes, more than {LARGEST:,}; take fewer photographs"
        )


if __name__ == "__main__":
    main()
