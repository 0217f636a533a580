"""What stands in a bank's file: its settings, its provenance and its tensors, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from captum_kmex.arguments import read_option
from captum_kmex.bank.tensor_kinds import FLOAT, INTEGER, TensorKind, check_tensors, part, scoped
from captum_kmex.classes import class_count
from captum_kmex.files.fields import Fields, is_integer

__all__ = [
    "METHODS",
    "check_bank_tensors",
    "check_codebook",
    "check_patches",
    "check_provenance",
    "check_settings",
    "check_widths",
    "codebook_kinds",
    "patch_kinds",
]

METHODS = ("LayerKMeansAttribution", "KMExAttribution")
_TOLERANCE = 1e-3  # shares of classes are float32
_BOX_ENDS = (2, 4, 6)  # of an interval, a rectangle, a box


def check_settings(settings: Fields, method: str, n_layers: int) -> None:
    """Read the constructor's options by the table of options; any may be missing.

    Raises:
        ValueError: One is unknown, of another type or out of range.
    """
    common, own = (
        ("n_prototypes", "seed", "head", "layout", "output"),
        ("n_clusters", "weighting", "average_top", "vote"),
    )
    names = (*common, *(own if method == METHODS[0] else ()))
    settings.only(*names)
    for name in filter(settings.__contains__, names):
        value = settings.get(name)
        if name == "n_prototypes" and isinstance(value, list):
            _check_counts(value)
        elif name == "head" and value is not None:
            settings.text("head")
        else:
            _check_option(name, value)
    weighting = settings.get("weighting") if "weighting" in settings else None
    if isinstance(weighting, list) and len(weighting) != n_layers:
        raise ValueError(f"settings.weighting is not one number for each of {n_layers} layers")


def _check_option(name: str, value: object) -> None:
    try:
        read_option(name, value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"settings.{name}: {error}") from error


def _check_counts(counts: list[object]) -> None:
    """Compare pairs of class and number of prototypes, as JSON holds a mapping."""
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in counts):
        raise ValueError("settings.n_prototypes holds what is no pair of a class and a number")
    pairs: list[tuple[object, object]] = [tuple(pair) for pair in counts]  # type: ignore[arg-type,misc]
    if not all(is_integer(c) for c, _ in pairs) or len(dict(pairs)) < len(pairs):
        raise ValueError("settings.n_prototypes holds what is no class, or a class twice")
    _check_option("n_prototypes", dict(pairs))


def check_provenance(about: Fields, n_classes: int) -> None:
    """Compare what a bank tells of its fit with its types; any may be missing.

    Raises:
        ValueError: One is of another type or out of range.
    """
    if "n_images" in about:
        about.integer("n_images")
    if "n_logits" in about and class_count(about.integer("n_logits", 1)) != n_classes:
        raise ValueError(f"provenance.n_logits does not make the {n_classes} classes of the bank")
    if "has_logits" in about:
        about.flag("has_logits")
    for name in ("rows_seen", "rows_kept"):
        if name in about:
            about.integers(name)
    if "options" in about:
        about.part("options")
    if "versions" in about:
        versions = about.part("versions")
        for name in {"captum_kmex", "torch", *about.mapping("versions")}:
            versions.text(name)


def check_bank_tensors(
    tensors: Mapping[str, Tensor], depths: int, n_classes: int, n_logits: int | None
) -> None:
    """Compare a bank's tensors with what they must be, and with each other.

    Args:
        tensors: The tensors, by name.
        depths: Number of codebooks.
        n_classes: Number of classes.
        n_logits: Number of logits of a ridge head, ``None`` where there is none.

    Raises:
        ValueError: One is missing, unknown, of another type or shape, or out of range.
    """
    if depths > len(tensors):
        raise ValueError(f"n_depths is {depths}, of {len(tensors)} tensors")
    kinds: dict[str, TensorKind] = {}
    membership = tensors.get("0.membership")
    is_agnostic = membership is not None and membership.ndim == 2
    for depth in range(depths):
        own = codebook_kinds(n_classes, is_agnostic)
        if part(tensors, f"{depth}.representatives."):
            patches = patch_kinds(("prototypes", "/patches"))
            own |= {f"representatives.{name}": kind for name, kind in patches.items()}
        kinds |= scoped(own, depth)
    if n_logits is not None:
        kinds["surrogate.columns"] = TensorKind(FLOAT, (n_logits, f"width {depths - 1}"))
        kinds["surrogate.bias"] = TensorKind(FLOAT, (n_logits,))
    check_tensors(tensors, kinds, {})
    for depth in range(depths):
        check_codebook(tensors, depth)
    check_widths([tensors[f"{depth}.centroids"].shape[1] for depth in range(depths)])


def check_widths(widths: Sequence[int]) -> None:
    """Raise ``ValueError`` unless each depth's rows are narrower than those of the one before."""
    if list(widths) != sorted(set(widths), reverse=True):
        raise ValueError(f"rows are {list(widths)} wide, which must shrink with depth")


def codebook_kinds(n_classes: int, is_agnostic: bool) -> dict[str, TensorKind]:
    """Return what the tensors of a codebook without representatives must be."""
    if is_agnostic:
        membership = TensorKind(FLOAT, ("prototypes", n_classes), 0, 1 + _TOLERANCE)
    else:
        membership = TensorKind(INTEGER, ("prototypes",), 0, n_classes - 1)
    return {
        "centroids": TensorKind(FLOAT, ("prototypes", "width"), alike="rows"),
        "membership": membership,
        "counts": TensorKind(INTEGER, ("prototypes",), 0),
        "spread": TensorKind(FLOAT, ("prototypes",), 0, alike="rows"),
    }


def patch_kinds(
    shape: tuple[int | str, int | str], dtype: str | torch.dtype = FLOAT
) -> dict[str, TensorKind]:
    """Return what the tensors of representatives must be.

    Args:
        shape: Prototypes and patches of each.
        dtype: Of the distances, that of the codebook's rows.
    """
    return {
        "indices": TensorKind(INTEGER, shape, -1),
        "boxes": TensorKind(INTEGER, (*shape, "ends of a box"), 0),
        "distances": TensorKind(dtype, shape, 0, takes_infinity=True, alike="rows"),
    }


def check_codebook(tensors: Mapping[str, Tensor], depth: int) -> None:
    """Compare the values of a codebook with each other.

    Args:
        tensors: Tensors of the right kinds, by name.
        depth: Which codebook.

    Raises:
        ValueError: No prototypes, shares that do not sum to 1, or patches that are none.
    """
    membership = tensors[f"{depth}.membership"]
    if not len(membership):
        raise ValueError(f"depth {depth} has no prototypes")
    if membership.ndim == 2 and not _sum_to_one(membership):
        raise ValueError(f"{depth}.membership has shares of the classes that do not sum to 1")
    patches = part(tensors, f"{depth}.representatives.")
    if patches:
        check_patches(patches, f"{depth}.representatives.")


def check_patches(patches: Mapping[str, Tensor], prefix: str) -> None:
    """Compare the tensors of representatives with each other.

    Args:
        patches: Tensors of the right kinds, by name.
        prefix: What stands before their names in a file, for messages.

    Raises:
        ValueError: One without an image has a distance, or a box ends before it begins.
    """
    indices, boxes, distances = (patches[name] for name in ("indices", "boxes", "distances"))
    if not torch.equal(indices < 0, distances.isinf()):
        raise ValueError(
            f"{prefix}indices is -1 where {prefix}distances is finite, or the other way round"
        )
    if boxes.shape[-1] not in _BOX_ENDS:
        raise ValueError(
            f"{prefix}boxes is {boxes.dtype} of shape {tuple(boxes.shape)}, whose last size "
            f"is none of {_BOX_ENDS}"
        )
    sides = boxes.shape[-1] // 2
    if not bool((boxes[..., :sides] <= boxes[..., sides:]).all()):
        raise ValueError(f"{prefix}boxes holds boxes that end before they begin")


def _sum_to_one(shares: Tensor) -> bool:
    return bool(((shares.double().sum(1) - 1).abs() < _TOLERANCE).all())
