"""Draw photographs with prototypes for docs/gallery.md: ``python docs/make_concepts.py``.

Needs the extras ``demo`` and ``bench``, the Debian package ``lomiri-wallpapers-16.04`` (installed,
or unpacked in ``CAPTUM_KMEX_DATA``), and the project on the path. Of its photographs those are used
whose licence is CC BY or CC0; the gallery names their authors.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from make_gallery import save
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.tasks.data.files import find_folder
from captum_kmex import LayerKMeansAttribution
from captum_kmex.demo import PHOTO_LAYERS, load_efficientnet_lite0, load_photographs
from captum_kmex.loading.zoos import imagenet_names
from captum_kmex.visualization import plot_prototypes

PHOTOGRAPHS = (
    "aitzgorri_by_Aitzol_Berasategi", "friends_by_Aitzol_Berasategi",
    "life_by_Aitzol_Berasategi", "picosdeeuropa_by_Aitzol_Berasategi",
    "sunset_by_Aitzol_Berasategi", "Picture_0B_by_freespace", "Picture_1A_by_freespace",
    "seeding_by_Clements_Engelhardt", "Wine_by_Jakkub_Mede",
)  # fmt: skip
SIDE = 224
SCALES = {256: (2, 1), 448: (3, 2), 640: (4, 2)}  # shorter side: crops across and down
CONCEPTS = 24
SHOWN = 5


def crops(picture: Image.Image) -> Iterator[Tensor]:
    """Yield crops (3, 224, 224) of a photograph at several scales, standardised."""
    for shorter, (across, down) in SCALES.items():
        zoom = shorter / min(picture.size)
        scaled = picture.resize(
            (round(picture.width * zoom), round(picture.height * zoom)), Image.Resampling.BICUBIC
        )
        for left in np.linspace(0, scaled.width - SIDE, across).round().astype(int):
            for top in np.linspace(0, scaled.height - SIDE, down).round().astype(int):
                part = scaled.crop((left, top, left + SIDE, top + SIDE))
                yield torch.from_numpy(np.array(part)).permute(2, 0, 1).float() / 127.5 - 1


def main() -> None:
    """Fit concepts of photographs, and explain another one by them."""
    torch.set_num_threads(1)
    folder = find_folder("backgrounds", "lomiri-wallpapers-16.04")
    files = [Path(folder) / f"{name}.jpg" for name in PHOTOGRAPHS]
    train = [x for file in files for x in crops(Image.open(file).convert("RGB"))]
    attr = LayerKMeansAttribution(load_efficientnet_lite0(), PHOTO_LAYERS, n_prototypes=CONCEPTS)
    attr.fit(DataLoader(train, 32), labels=None)
    book = attr.bank_.codebooks[0]
    largest = book.counts.argsort(descending=True)[:SHOWN].tolist()
    classes = imagenet_names()
    figure, _ = plot_prototypes(attr, train, prototypes=largest, n_patches=3, class_names=classes)
    save("concepts", figure, "jpg")
    names, pictures, inputs = load_photographs()
    place = names.index("china")
    result = attr.explain(inputs[place : place + 1])
    figure, _ = result.plot(dataset=train, class_names=classes, image=pictures[place])
    save("panel-concepts", figure, "jpg")


if __name__ == "__main__":
    main()
