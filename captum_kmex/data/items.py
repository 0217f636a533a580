"""What a loader or a data set yields, read in one way: inputs, label, name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TypeGuard

import torch
from torch import Tensor

from captum_kmex.text.descriptions import described, named_parts

__all__ = ["BATCH", "ITEM", "inputs_of", "item_of", "label_of", "label_tensor", "name_of"]

BATCH, ITEM = 4, 3  # dimensions of the images: (N, C, H, W), (C, H, W)
_ITEMS = {2: "signals (C, T)", 3: "image tensors (C, H, W)", 4: "volumes (C, D, H, W)"}
_LABELS = (("label", "labels"), ("target", "targets", "y"))  # the latter where no former is there
_NAMES = ("name", "path", "filename")
_ASKED = {
    BATCH: (
        "a batch must be images or (images, labels), or hold one float tensor (N, C, H, W) and "
        "'label' by name",
        "Adapt it with collate_fn=",
    ),
    ITEM: (
        "the data set must yield image tensors (C, H, W), alone or first in a tuple, or one float "
        "tensor (C, H, W) by name",
        "Pass the data set that the fit saw",
    ),
}


def inputs_of(given: object, ndim: int) -> tuple[Tensor, ...]:
    """Return the model's inputs in a batch or an item, the images first.

    They are a tensor, what stands first in a tuple, or the only image of a mapping, a named
    tuple or a dataclass. A model with several inputs has a tuple of tensors there.

    Args:
        given: What the loader or the data set yields.
        ndim: ``BATCH`` or ``ITEM``.

    Raises:
        TypeError: No tensors.
        ValueError: Several images with names, none of which says which is the input.
    """
    fields = named_parts(given)
    if fields is not None:
        inputs = _only_image(fields, ndim)
    else:
        inputs = given[0] if isinstance(given, (tuple, list)) and given else given
    tensors = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    is_known = bool(tensors) and all(isinstance(t, Tensor) and t.ndim for t in tensors)
    if not is_known:
        wanted, remedy = _ASKED[ndim]
        raise TypeError(f"{wanted}; got {described(given)}. {remedy}")
    return tensors


def item_of(dataset: Sequence[object], index: int, ndim: int) -> Tensor:
    """Return a signal (C, T), an image or a volume (C, D, H, W) of a data set.

    Args:
        dataset: The training set of the fit.
        index: Position in it.
        ndim: Dimensions of the item: 2, 3 or 4.

    Raises:
        TypeError: The data set yields something else.
        ValueError: Several items with names, none of which says which is the input.
    """
    item = dataset[index]
    found = inputs_of(item, ndim)[0]
    if found.ndim != ndim or found.is_meta:
        is_other = not found.is_meta and ndim == ITEM and found.ndim in _ITEMS
        hint = ". Signals and volumes are drawn by Explanation.plot alone" if is_other else ""
        raise TypeError(
            f"the data set must yield {_ITEMS[ndim]}, alone or first in a tuple; got "
            f"{described(item)}. Pass the data set that the fit saw{hint}"
        )
    return found


def label_of(given: object, ndim: int) -> object:
    """Return the labels of a batch or the label of an item; ``None`` where there are none.

    Args:
        given: What the loader or the data set yields. Of a tuple it is the second part; a third
            can only be an item's name.
        ndim: ``BATCH`` or ``ITEM``.

    Raises:
        ValueError: Several parts may be the label.
    """
    fields = named_parts(given)
    if fields is not None:
        return _named_label(fields)
    if not isinstance(given, (tuple, list)) or len(given) < 2:
        return None
    others = given[2:] if ndim == BATCH or not _is_name(given[-1]) else given[3:]
    if any(other is not None for other in others):
        raise ValueError(_undecided(given, ndim))
    label: object = given[1]
    return label


def label_tensor(given: object, count: int) -> Tensor | None:
    """Return a batch's labels as a tensor (N,) or (N, C); ``None`` where no image has one.

    Args:
        given: What ``label_of`` found.
        count: Number of images N.

    Raises:
        ValueError: No numbers, or not one or one row for each image.
    """
    each = list(given) if isinstance(given, (list, tuple)) else []
    if given is None or (each and all(label is None for label in each)):
        return None
    try:
        is_stack = bool(each) and all(isinstance(label, Tensor) for label in each)
        labels = torch.stack(each) if is_stack else torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"labels must be integers or multi-hot rows; got {described(given)}. Give each image "
            "the number of its class, in the order of the model's outputs"
        ) from error
    _check_labels(labels, count)
    is_column = labels.ndim == 2 and labels.shape[1] == 1 and not labels.is_floating_point()
    return labels.squeeze(1) if is_column else labels


def name_of(item: object) -> str:
    """Return an item's name, third in a tuple or by key; empty where it has none."""
    fields = named_parts(item)
    if fields is not None:
        found = [part for key, part in fields.items() if _plain(key) in _NAMES]
    else:
        found = list(item[2:3]) if isinstance(item, (tuple, list)) else []
    return next((str(os.fspath(part)) for part in found if _is_name(part)), "")


def _plain(key: object) -> str:
    return str(key).casefold()


def _is_name(part: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(part, (str, os.PathLike))


def _is_image(value: object, ndim: int) -> bool:
    if isinstance(value, (tuple, list)) and value:  # several inputs, the images first
        return all(isinstance(part, Tensor) for part in value) and _is_image(value[0], ndim)
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim == ndim


def _only_image(fields: Mapping[object, object], ndim: int) -> object:
    """Return the one image among named parts; nothing where there is none."""
    is_label = {key: any(_plain(key) in names for names in _LABELS) for key in fields}
    for dimensions in (ndim, ndim - 1, ndim + 1):  # images before signals and volumes
        found = [k for k, v in fields.items() if not is_label[k] and _is_image(v, dimensions)]
        if len(found) > 1:
            shown = ", ".join(f"{key!r}: {described(fields[key])}" for key in found)
            raise ValueError(
                f"which part is the model's input nobody says: {shown}. Yield (images, labels), "
                "for instance with collate_fn=; several inputs of a model go together: "
                "((images, others), labels)"
            )
        if found:
            return fields[found[0]]
    return None


def _named_label(fields: Mapping[object, object]) -> object:
    for names in _LABELS:
        found = [key for key in fields if _plain(key) in names]
        if len(found) > 1:
            raise ValueError(
                f"which part is the label nobody says: {', '.join(map(repr, found))}. Keep one of "
                "them, for instance with collate_fn="
            )
        if found:
            return fields[found[0]]
    return None


def _undecided(given: tuple[object, ...] | list[object], ndim: int) -> str:
    """Say that a tuple has more parts than two."""
    is_batch = ndim == BATCH
    parts = "; ".join(f"{place}: {described(part)}" for place, part in enumerate(given[:6]))
    form = "(images, labels)" if is_batch else "(image, label) or (image, label, name)"
    return (
        f"{'a batch' if is_batch else 'an item'} has {len(given)} parts, and which of them is the "
        f"label nobody says ({parts}). Yield {form}, for instance with collate_fn=, or a dict with "
        "'label'; several inputs of a model go together: ((images, others), labels)"
    )


def _check_labels(labels: Tensor, count: int) -> None:
    """Raise ``ValueError`` unless there is a number, or a row of them, for each image."""
    if labels.ndim > 2:
        raise ValueError(
            f"labels must be integers ({count},) or multi-hot ({count}, C); got {described(labels)}"
            ", which looks like masks or a second input. Several inputs of a model go together, "
            "((images, others), labels); of a mask take the class of its image"
        )
    if labels.ndim == 0 or len(labels) != count or labels.is_complex():
        hint = ". Is it one item? Wrap the data set: DataLoader(dataset, batch_size=64)"
        raise ValueError(
            f"labels must be integers ({count},) or multi-hot ({count}, C); got {labels.dtype} of "
            f"shape {tuple(labels.shape)}{'' if labels.ndim else hint}"
        )
