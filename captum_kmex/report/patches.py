"""Pictures of the prototypes' nearest training patches, each training image once a section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.concepts import image_of
from captum_kmex.report.pictures import PictureOf, encode_picture

__all__ = ["PatchPictures", "Section", "check_train_set"]

_SIDE = 112  # pixels of a training picture, at most
_BUDGET = 4000  # patches that get a picture


@dataclass(frozen=True)
class Section:
    """Patches of one section of prototypes.

    Attributes:
        patches: A depth, the patches of each prototype: training image, distance, place in
            ``pictures`` or -1, and the box's left, top, width and height as shares of the image.
        pictures: Data addresses.
    """

    patches: list[dict[int, list[list[float]]]]
    pictures: list[str]


class PatchPictures:
    """Reads training images as they are needed; the nearest patches first, if there are many.

    Args:
        bank: The fitted prototypes.
        train_set: The data set of the fit; ``None`` shows none of it.
        picture: Makes a picture of an input.
    """

    def __init__(
        self, bank: PrototypeBank, train_set: Sequence[object] | None, picture: PictureOf
    ) -> None:
        self._bank, self._train_set, self._picture = bank, train_set, picture
        count = sum(len(book.centroids) for book in bank.codebooks)
        self._each = max(1, _BUDGET // count)

    def section(self, members: Sequence[Sequence[int]]) -> Section:
        """Return the patches of some prototypes, and the pictures they lie in.

        Args:
            members: A depth, indices of prototypes.
        """
        slots: dict[int, int] = {}
        sizes: dict[int, tuple[int, int]] = {}
        pictures: list[str] = []
        if self._train_set is not None:
            for index in self._wanted(members):
                image = image_of(self._train_set, index)
                slots[index], sizes[index] = len(pictures), (image.shape[1], image.shape[2])
                pictures.append(encode_picture(self._picture(image), _SIDE))
        patches = [
            {k: self._patches(depth, k, slots, sizes) for k in mine}
            for depth, mine in enumerate(members)
        ]
        return Section(patches, pictures)

    def _wanted(self, members: Sequence[Sequence[int]]) -> list[int]:
        """Return the training images of a section, each once."""
        found: dict[int, None] = {}
        for book, mine in zip(self._bank.codebooks, members, strict=True):
            if book.representatives is not None:
                indices = book.representatives.indices.cpu()[list(mine), : self._each]
                found |= dict.fromkeys(indices.flatten().tolist())
        return [index for index in found if index >= 0]

    def _patches(
        self,
        depth: int,
        k: int,
        slots: Mapping[int, int],
        sizes: Mapping[int, tuple[int, int]],
    ) -> list[list[float]]:
        found = self._bank.codebooks[depth].representatives
        if found is None:
            return []
        patches: list[list[float]] = []
        rows = zip(found.indices[k].tolist(), found.boxes[k], found.distances[k], strict=True)
        for index, box, far in rows:
            if index >= 0:
                place = slots.get(index, -1)
                frame = _frame(box, sizes[index], index) if place >= 0 else []
                patches.append([index, round(float(far), 4), place, *frame])
        return patches


def check_train_set(bank: PrototypeBank, train_set: Sequence[object]) -> None:
    """Raise ``ValueError`` where a data set is too short to be that of the fit."""
    found = [book.representatives for book in bank.codebooks if book.representatives is not None]
    last = max((int(part.indices.max()) for part in found if part.indices.numel()), default=-1)
    if last >= len(train_set):
        raise ValueError(
            f"the bank's patches lie in training images up to number {last}, but train_set has "
            f"{len(train_set)}; pass the data set of the fit, in its order"
        )


def _frame(box: Tensor, size: tuple[int, int], index: int) -> list[float]:
    """Return left, top, width and height of a box (x0, y0, x1, y1) as shares of the image."""
    (height, width), (x0, y0, x1, y1) = size, box.tolist()
    if x1 > width or y1 > height:
        raise ValueError(
            f"a patch ends at ({x1}, {y1}) in training image {index}, which is {width} pixels "
            f"wide and {height} high; pass the data set of the fit, preprocessed alike"
        )
    parts = x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height
    return [round(part, 4) for part in parts]
