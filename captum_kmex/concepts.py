"""Prototypes as Captum concepts: their nearest training patches, for TCAV."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from captum.concept import Concept
from torch import Tensor
from torch.utils.data import DataLoader

from captum_kmex.arguments import checked
from captum_kmex.arguments.misfits import shortened
from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.composite.resizing import resize
from captum_kmex.data.items import ITEM, item_of

__all__ = ["crop_box", "image_of", "random_concept", "to_concepts"]

_SHARE = 0.25  # of the image's sides: the least crop, so that a small cell keeps its context


@checked
def to_concepts(
    bank: PrototypeBank,
    dataset: Sequence[object],
    prototypes: Sequence[int] | None = None,
    *,
    depth: int | str = 0,
    context: float = _SHARE,
    batch_size: int = 16,
) -> list[Concept]:
    """Return each prototype's nearest training patches as a concept.

    Args:
        bank: A fitted bank with representatives.
        dataset: The training set of the fit: images (C, H, W), alone, first in a tuple, or
            the only one of a dict.
        prototypes: Which prototypes of the codebook; all if ``None``.
        depth: Which codebook, by position or name of its shallowest layer.
        context: Least side of a crop, as a share of the image's; crops are resized to the
            image's size. 1 takes whole images.
        batch_size: Patches a batch.

    Raises:
        ValueError: The bank has no representatives, or a prototype or depth is out of range.
        TypeError: The data set yields no image tensors.
    """
    position = bank.depth(depth)
    book = bank.codebooks[position]
    found = book.representatives
    if found is None:
        raise ValueError("the bank has no representatives; fit with n_representatives > 0")
    first = sum(len(above.centroids) for above in bank.codebooks[:position])
    concepts = []
    for k in range(len(book.centroids)) if prototypes is None else prototypes:
        if not 0 <= k < len(book.centroids):
            raise ValueError(f"prototype {k} is out of range for {len(book.centroids)} prototypes")
        pairs = zip(found.indices[k].tolist(), found.boxes[k].tolist(), strict=True)
        crops = [
            _crop(_item(dataset, index, box), box, context) for index, box in pairs if index >= 0
        ]
        owner = book.membership[k]
        name = f"class {int(owner)} prototype {k}" if owner.ndim == 0 else f"prototype {k}"
        if position:
            name += f" of {bank.layers[position]}"
        # TCAV files vectors by name and id: prototypes of two depths must not share them
        concepts.append(Concept(first + k, name, _loader(crops, batch_size)))
    return concepts


@checked
def random_concept(
    dataset: Sequence[object],
    count: int,
    *,
    concept_id: int = -1,
    context: float = _SHARE,
    seed: int = 0,
    batch_size: int = 16,
) -> Concept:
    """Return random patches of random images as a concept, TCAV's counterpart.

    Args:
        dataset: Images (C, H, W), alone or first in a tuple, with a length.
        count: Number of patches.
        concept_id: Captum's identifier; one for each concept of an experiment.
        context: Side of a crop, as a share of the image's.
        seed: Seed of the choice.
        batch_size: Patches a batch.
    """
    if not len(dataset):
        raise ValueError("the data set is empty; pass one with at least one image")
    generator = torch.Generator().manual_seed(seed)
    crops = []
    for index in torch.randint(len(dataset), (count,), generator=generator).tolist():
        image = image_of(dataset, index)
        size = torch.tensor([image.shape[2], image.shape[1]])
        x, y = (torch.rand(2, generator=generator) * size).long().tolist()
        crops.append(_crop(image, [x, y, x + 1, y + 1], context))
    return Concept(concept_id, f"random {seed}", _loader(crops, batch_size))


def _loader(crops: list[Tensor], batch_size: int) -> DataLoader[Tensor]:
    # a list is a map-style data set for DataLoader, though not by its type
    return DataLoader(crops, batch_size=batch_size)  # type: ignore[arg-type]


@checked
def image_of(dataset: Sequence[object], index: int) -> Tensor:
    """Return one image of a data set as a tensor (C, H, W).

    Raises:
        TypeError: The data set yields something else.
        ValueError: Several images with names, none of which says which is the input.
    """
    if not 0 <= index < len(dataset):
        raise ValueError(
            f"the data set has {len(dataset)} items, none at index {shortened(index)}; pass the "
            "data set of the fit, in its order"
        )
    return item_of(dataset, index, ITEM)


@checked
def crop_box(
    box: Sequence[int], size: tuple[int, int], context: float = _SHARE
) -> tuple[slice, slice]:
    """Return the rows and columns of a box, widened to its context and shifted inside.

    Args:
        box: x0, y0, x1, y1 in pixels.
        size: Height and width of the image.
        context: Least side, as a share of the image's.
    """
    rows, columns = _spans(box, size, context)
    return rows, columns


def _spans(box: Sequence[int], size: Sequence[int], context: float) -> list[slice]:
    """Return the part of each side that a box takes, widened to its context."""
    ends = zip(box[: len(size)][::-1], box[len(size) :][::-1], size, strict=True)
    return [_span(low, high, length, context) for low, high, length in ends]


def _span(low: int, high: int, length: int, context: float) -> slice:
    side = min(length, max(high - low, round(context * length)))
    start = min(max(0, (low + high - side) // 2), length - side)
    return slice(start, start + side)


def _item(dataset: Sequence[object], index: int, box: Sequence[int]) -> Tensor:
    sides = len(box) // 2
    return image_of(dataset, index) if sides == 2 else item_of(dataset, index, sides + 1)


def _crop(image: Tensor, box: Sequence[int], context: float) -> Tensor:
    """Cut a box with its context and resize it to the image."""
    size = tuple(image.shape[1:])
    patch = image[(slice(None), *_spans(box, size, context))]
    return resize(patch[None], size)[0]
