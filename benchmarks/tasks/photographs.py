"""An ImageNet network on photographs pasted on photographs: where each object is, is exact.

Cut-outs with transparency come from Tux Paint's stamps, backgrounds from desktop wallpapers and
scikit-image. The network, EfficientNet-Lite0, has seen neither. Nothing is written to disk.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks.quality.presets import Preset
from benchmarks.quality.task import Sample, Task
from benchmarks.tasks.data.files import find_folder
from captum_kmex.demo import PHOTO_LAYERS, load_efficientnet_lite0
from captum_kmex.loading.zoos import imagenet_names

__all__ = ["TASKS", "Photographs", "load_backgrounds", "load_cutouts", "paste"]

_SIZE = 224
_SHARES = (0.05, 0.35)  # of the area that an object covers
_MIN_SHARE = 0.045  # after long ones were made to fit
_MAX_ZOOM = 2.0  # small cut-outs stay small
_ROUNDS = 6  # images tried of each object
_SURE = 0.3  # probability that the network must give an object's class
_BATCH = 8


@dataclass(frozen=True)
class Photographs:
    """Composites of a split, made and kept as they are asked for.

    An object is used if the network sees a class in it on plain grey with a probability of 0.3 or
    more. Objects are split by this class, and backgrounds one by one, so that the splits share no
    object, no class and no background. A composite is kept if the network predicts the object's
    class there too with that probability, and another one for the same background alone: a rule
    that looks at no map.

    Attributes:
        model: The network.
    """

    model: nn.Module
    _found: dict[str, list[tuple[Tensor, Tensor, int]]] = field(default_factory=dict)
    _sources: dict[str, Iterator[tuple[Tensor, Tensor, int]]] = field(default_factory=dict)

    def sample(self, split: str, count: int) -> Sample:
        """Return the first images of a split; fewer where no more are found."""
        found = self._found.setdefault(split, [])
        source = self._sources.setdefault(split, self._composites(split))
        found.extend(islice(source, max(0, count - len(found))))
        images, masks, classes = zip(*found[:count], strict=True)
        targets = torch.tensor(classes)
        return Sample(torch.stack(images), targets, masks=torch.stack(masks))

    @cached_property
    def _objects(self) -> list[tuple[str, Tensor, int]]:
        """Return name, cut-out and class on plain grey of every object that has one."""
        cutouts = load_cutouts()
        grey = torch.full((3, _SIZE, _SIZE), 0.5)
        pasted = [paste(cut, grey, 0.25, (0.5, 0.5))[0] for cut in cutouts.values()]
        surest, classes = self._probabilities(torch.stack(pasted)).max(1)
        objects = zip(cutouts.items(), surest.tolist(), classes.tolist(), strict=True)
        return [(name, cut, c) for (name, cut), p, c in objects if p >= _SURE]

    def _composites(self, split: str) -> Iterator[tuple[Tensor, Tensor, int]]:
        place = ("validation", "test").index(split)
        halves = torch.randperm(1000, generator=torch.Generator().manual_seed(0)) % 2
        objects = [entry for entry in self._objects if halves[entry[2]] == place]
        backgrounds = load_backgrounds()[place::2]
        for turn in range(_ROUNDS):
            tried = self._candidates(objects, backgrounds, turn)
            while batch := list(islice(tried, _BATCH)):
                yield from self._kept(batch)

    def _candidates(
        self, objects: list[tuple[str, Tensor, int]], backgrounds: list[Tensor], turn: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
        """Yield composite, mask, background and class, one of each object, in random order."""
        order = torch.randperm(len(objects), generator=torch.Generator().manual_seed(turn))
        for name, cutout, target in (objects[i] for i in order):
            # crc32, unlike hash, is the same in every process
            rng = np.random.default_rng(zlib.crc32(f"{name} {turn}".encode()))
            scenery = _crop(backgrounds[rng.integers(len(backgrounds))], rng)
            share, *place = rng.uniform(_SHARES[0], _SHARES[1]), *rng.uniform(size=2)
            image, mask = paste(cutout, scenery, share, (place[0], place[1]))
            if mask.double().mean() >= _MIN_SHARE:
                yield image, mask, scenery, target

    def _kept(
        self, batch: list[tuple[Tensor, Tensor, Tensor, int]]
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        images, masks, sceneries, classes = zip(*batch, strict=True)
        found = self._probabilities(torch.stack(images))
        surest = [(float(p.max()), int(p.argmax())) for p in found]
        likely = [i for i, (p, c) in enumerate(surest) if p >= _SURE and c == classes[i]]
        if not likely:
            return
        alone = self._probabilities(torch.stack([sceneries[i] for i in likely])).argmax(1)
        for i, other in zip(likely, alone.tolist(), strict=True):
            if other != classes[i]:
                yield (images[i] - 0.5) / 0.5, masks[i], classes[i]

    @torch.no_grad()
    def _probabilities(self, pictures: Tensor) -> Tensor:
        """Return probabilities (N, J) of pictures (N, 3, H, W) in [0, 1]."""
        parts = [self.model((x - 0.5) / 0.5).softmax(1) for x in pictures.split(_BATCH)]
        return torch.cat(parts)


def load_cutouts() -> dict[str, Tensor]:
    """Return the photographic cut-outs by name: colours and opacity (4, h, w) in [0, 1]."""
    root = find_folder("tuxpaint/stamps", "tuxpaint-stamps-default")
    cutouts = {}
    for path in sorted(root.rglob("*.png")):
        where = path.relative_to(root)
        is_photograph = where.parts[0] in _KINDS and not _DRAWN.intersection(where.parts)
        if is_photograph and where.stem not in _LEFT_OUT and not where.stem.endswith("_mirror"):
            picture = Image.open(path).convert("RGBA")
            picture = picture.crop(
                picture.getchannel("A").point(lambda a: 255 * (a > 127)).getbbox()
            )
            cutouts[where.stem] = _tensor(picture)
    return cutouts


def load_backgrounds() -> list[Tensor]:
    """Return the backgrounds (3, h, w) in [0, 1]."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    folder = find_folder("backgrounds", "lomiri-wallpapers-16.04")
    found = {name: sorted(folder.glob(f"{name}_by_*")) for name in _WALLPAPERS}
    missing = [name for name, paths in found.items() if not paths]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {missing}; unpack the Debian packages lomiri-wallpapers-16.04 and "
            "lomiri-wallpapers-20.04 into one folder, and set CAPTUM_KMEX_DATA to it"
        )
    pictures: list[Image.Image] = [Image.open(path) for paths in found.values() for path in paths]
    bundled = [data.coffee(), data.rocket(), data.astronaut(), data.chelsea()]
    pictures += [Image.fromarray(x) for x in (*bundled, *load_sample_images().images)]
    for picture in pictures:
        picture.thumbnail((640, 640))
    return [_tensor(picture.convert("RGB")) for picture in pictures]


def paste(
    cutout: Tensor, background: Tensor, share: float, place: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Paste a cut-out on a background.

    Args:
        cutout: Colours and opacity (4, h, w).
        background: Picture (3, H, W).
        share: Share of the area that the object is to cover; less where it would not fit.
        place: Where it stands in the room that is left, down and across, in [0, 1].

    Returns:
        The composite (3, H, W) and the mask (H, W) of where the object is more opaque than not.
    """
    _, height, width = background.shape
    opaque = float((cutout[3] > 0.5).double().mean()) * cutout.shape[1] * cutout.shape[2]
    zoom = min(
        (share * height * width / opaque) ** 0.5,
        height / cutout.shape[1],
        width / cutout.shape[2],
        _MAX_ZOOM,
    )
    size = (max(1, int(cutout.shape[1] * zoom)), max(1, int(cutout.shape[2] * zoom)))
    # transparent pixels have colours too: weigh by opacity before they mix
    weighted = torch.cat([cutout[:3] * cutout[3:], cutout[3:]])
    scaled = interpolate(weighted[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
    top, left = (
        round(p * (room - part)) for p, room, part in zip(place, (height, width), size, strict=True)
    )
    rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
    image, mask = background.clone(), torch.zeros(height, width, dtype=torch.bool)
    image[:, rows, columns] = scaled[:3] + (1 - scaled[3]) * background[:, rows, columns]
    mask[rows, columns] = scaled[3] > 0.5
    return image, mask


def _crop(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a random square of a picture, at least half its shorter side, (3, 224, 224)."""
    _, height, width = picture.shape
    side = int(min(height, width) * rng.uniform(0.5, 1))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    square = picture[None, :, top : top + side, left : left + side]
    scaled = interpolate(square, (_SIZE, _SIZE), mode="bilinear", antialias=True)
    return scaled[0].clamp(0, 1)


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def _load(_: Preset) -> Task:
    model = load_efficientnet_lite0()
    return Task(
        name="photographs",
        title="Photographs on photographs, ImageNet EfficientNet-Lite0",
        model=model,
        layers=tuple(PHOTO_LAYERS),
        class_names=tuple(imagenet_names()),
        train=None,
        test=None,
        sample=Photographs(model).sample,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        notes=(
            "objects are pasted, so their edges and their light do not belong to the scene; "
            "images were kept only where the network's class is decided by the object",
        ),
    )


_KINDS = (
    "animals", "food", "hobbies", "household", "medical", "military", "plants", "sports", "town",
    "vehicles",
)  # fmt: skip
_DRAWN = {"cartoon", "flags", "houses", "plastic", "roadsigns", "toys"}
_LEFT_OUT = {  # by eye, on contact sheets
    # drawn, rendered, or with words or parts painted over
    "bee", "echidna", "hedgehog", "pizza", "highlighter", "pen_dryerase", "glass", "mug", "tooth",
    "inukshuk-outline", "sedan_police", "key", "wrench_adjustable", "7spoke256", "747",
    "fireman240a",
    # in colours that the animal does not have
    "bluegroper", "clownfish", "dolphinfish", "moonwrasse", "stripedfish", "whale",
    # with a piece of the ground under them
    "albino_peahen", "fox", "indian_blackbuck", "koala", "lion", "tiger_sumatran",
}  # fmt: skip
_WALLPAPERS = (
    "Bridge", "Dragonfly", "Kleiber", "Picture_0B", "Picture_1A", "Wine", "aitzgorri", "free",
    "friends", "greentock", "life", "picosdeeuropa", "seeding", "sunset",
)  # fmt: skip
TASKS = {"photographs": _load}
