"""``PrototypeBank``: the only fitted state, and its safetensors file."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from captum_kmex.arguments import checked
from captum_kmex.files import read_tensors, write_tensors
from captum_kmex.representatives import Representatives
from captum_kmex.surrogate import Surrogate

__all__ = ["Codebook", "ModelFingerprint", "PrototypeBank"]

SCHEMA_VERSION = 1
_HEADER = "captum_kmex"


@dataclass(frozen=True)
class ModelFingerprint:
    """What tells one model from another: hashes of its tensors' names, shapes and values.

    Attributes:
        architecture: SHA-256 over names and shapes.
        weights: SHA-256 over the values too.
    """

    architecture: str
    weights: str

    @classmethod
    @checked
    def of(cls, model: nn.Module) -> ModelFingerprint:
        """Hash a model's parameters and buffers."""
        architecture, weights = hashlib.sha256(), hashlib.sha256()
        for name, tensor in sorted(model.state_dict().items()):
            if not isinstance(tensor, Tensor):
                continue
            architecture.update(f"{name}{tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().flatten()
            weights.update(flat.view(torch.uint8).numpy().tobytes())
        weights.update(architecture.digest())
        return cls(architecture.hexdigest(), weights.hexdigest())


@dataclass(frozen=True)
class Codebook:
    """The prototypes of one depth.

    Attributes:
        centroids: Float tensor (K, D).
        membership: Integer tensor (K,), the class of each prototype; or float tensor (K, C),
            the share of each class in a class-agnostic cluster.
        counts: Integer tensor (K,), rows in each cluster: of the sample, after ``refine`` all.
        spread: Float tensor (K,), mean squared distance of a cluster's rows to its centroid.
        representatives: Nearest training patches, if they were collected.
    """

    centroids: Tensor
    membership: Tensor
    counts: Tensor
    spread: Tensor
    representatives: Representatives | None = None

    def state(self) -> dict[str, Tensor]:
        """Return the tensors but for the representatives."""
        names = ("centroids", "membership", "counts", "spread")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def of(cls, state: Mapping[str, Tensor], device: torch.device) -> Codebook:
        """Read a saved codebook without representatives."""
        names = ("centroids", "membership", "counts", "spread")
        centroids, membership, counts, spread = (state[name].to(device) for name in names)
        return cls(centroids, membership, counts, spread)

    @checked
    def of_class(self, c: int) -> Tensor:
        """Return the indices of a class's prototypes; of all, in a class-agnostic codebook."""
        if self.membership.ndim == 2:
            return torch.arange(len(self.centroids))
        return (self.membership == c).nonzero().squeeze(1)


@dataclass(frozen=True)
class PrototypeBank:
    """Fitted prototypes and where they come from.

    Attributes:
        method: Name of the class that fitted it.
        layers: Layer names, shallow to deep.
        at_input: The layers were read at their input.
        weights: Block weights of the composite, one a layer.
        codebooks: One codebook for each depth suffix, the whole stack first.
        n_classes: Number of classes: of logits, or two of a single logit.
        input_range: Least and greatest input value of the fit.
        fingerprint: The model.
        provenance: What was fitted on what: images, rows seen and kept by class, seed,
            labels, options, library versions.
        surrogate: Ridge surrogate of the logits, where the model has no linear head.
        settings: Arguments of the constructor that fitted it, for ``load``.
    """

    method: str
    layers: tuple[str, ...]
    at_input: bool
    weights: tuple[float, ...]
    codebooks: tuple[Codebook, ...]
    n_classes: int
    input_range: tuple[float, float]
    fingerprint: ModelFingerprint
    provenance: Mapping[str, object]
    surrogate: Surrogate | None = None
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)

    @checked
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with a JSON header; an existing file survives a failure.

        Args:
            path: The file to write; it is replaced in one step.

        Raises:
            OSError: The file cannot be written, for instance for want of space.
        """
        write_tensors(Path(path), _tensors(self), _HEADER, _header(self))

    @classmethod
    @checked
    def load(cls, path: str | os.PathLike[str]) -> PrototypeBank:
        """Read a bank; nothing is unpickled.

        Raises:
            ValueError: The file is truncated, foreign, of another schema, or inconsistent.
            FileNotFoundError: There is no such file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no bank at {path}; write one with save()")
        tensors, header = read_tensors(path, _HEADER, "prototype bank", "save the bank again")
        return _bank(header, tensors, path)

    @checked
    def check_model(self, model: nn.Module) -> None:
        """Compare the model with the one of the fit.

        Raises:
            ValueError: Another architecture or other weights.
        """
        found = ModelFingerprint.of(model)
        if found == self.fingerprint:
            return
        same = found.architecture == self.fingerprint.architecture
        what = "other weights" if same else "another architecture"
        raise ValueError(
            f"the bank was fitted on a model with {what}: fingerprint "
            f"{self.fingerprint.weights[:12]}, got {found.weights[:12]}. Load the model it was "
            "fitted on, fit again, or pass strict=False if the difference is meant"
        )


def _tensors(bank: PrototypeBank) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for depth, book in enumerate(bank.codebooks):
        tensors |= {f"{depth}.{name}": tensor for name, tensor in book.state().items()}
        if book.representatives is not None:
            for name in ("indices", "boxes", "distances"):
                tensors[f"{depth}.representatives.{name}"] = getattr(book.representatives, name)
    if bank.surrogate is not None:
        tensors["surrogate.columns"] = bank.surrogate.columns
        tensors["surrogate.bias"] = bank.surrogate.bias
    return tensors


def _header(bank: PrototypeBank) -> dict[str, object]:
    header: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "n_depths": len(bank.codebooks),
        "fingerprint": dataclasses.asdict(bank.fingerprint),
        "provenance": dict(bank.provenance),
        "settings": dict(bank.settings),
    }
    for name in ("method", "layers", "at_input", "weights", "n_classes", "input_range"):
        header[name] = getattr(bank, name)
    if bank.surrogate is not None:
        header["surrogate"] = {"layer": bank.surrogate.layer, "r2": bank.surrogate.r2}
    return header


def _bank(header: dict[str, object], tensors: Mapping[str, Tensor], path: Path) -> PrototypeBank:
    version = header.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version}, this release reads {SCHEMA_VERSION}; "
            "upgrade captum_kmex or fit again"
        )
    try:
        bank = _assemble(header, tensors)
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}; the file is damaged, save it again") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}; the file is damaged, fit and save again") from error
    fault = _inconsistency(bank)
    if fault:
        raise ValueError(f"{path}: {fault}; the file is damaged, fit and save again")
    return bank


def _assemble(header: Mapping[str, object], tensors: Mapping[str, Tensor]) -> PrototypeBank:
    read: dict[str, object] = dict(header)
    depths: int = read["n_depths"]  # type: ignore[assignment]
    hashes: dict[str, str] = read["fingerprint"]  # type: ignore[assignment]
    surrogate = None
    if "surrogate" in read:
        columns, bias = tensors["surrogate.columns"], tensors["surrogate.bias"]
        about: dict[str, object] = read["surrogate"]  # type: ignore[assignment]
        surrogate = Surrogate(str(about["layer"]), columns, bias, float(about["r2"]))  # type: ignore[arg-type]
    return PrototypeBank(
        method=str(read["method"]),
        layers=_strings(read["layers"]),
        at_input=bool(read["at_input"]),
        weights=_floats(read["weights"]),
        codebooks=tuple(_codebook(tensors, depth) for depth in range(depths)),
        n_classes=int(read["n_classes"]),  # type: ignore[call-overload]
        input_range=_floats(read["input_range"]),  # type: ignore[arg-type]
        fingerprint=ModelFingerprint(hashes["architecture"], hashes["weights"]),
        provenance=read["provenance"],  # type: ignore[arg-type]
        surrogate=surrogate,
        settings=read["settings"],  # type: ignore[arg-type]
    )


def _strings(values: object) -> tuple[str, ...]:
    return tuple(map(str, values)) if isinstance(values, Sequence) else ()


def _floats(values: object) -> tuple[float, ...]:
    return tuple(map(float, values)) if isinstance(values, Sequence) else ()


def _codebook(tensors: Mapping[str, Tensor], depth: int) -> Codebook:
    part = {
        name.removeprefix(f"{depth}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{depth}.")
    }
    representatives = None
    if "representatives.indices" in part:
        representatives = Representatives(
            part["representatives.indices"],
            part["representatives.boxes"],
            part["representatives.distances"],
        )
    return Codebook(
        part["centroids"], part["membership"], part["counts"], part["spread"], representatives
    )


def _inconsistency(bank: PrototypeBank) -> str:
    """Return what does not fit together, or nothing."""
    depths, layers = len(bank.codebooks), max(1, len(bank.layers))
    if not depths == layers == len(bank.weights) or len(bank.input_range) != 2:
        return (
            f"{depths} codebooks and {len(bank.weights)} weights for {layers} layers, input "
            f"range {bank.input_range}"
        )
    for depth, book in enumerate(bank.codebooks):
        count, fields = len(book.centroids), [book.membership, book.counts, book.spread]
        if book.representatives is not None:
            found = book.representatives
            fields += [found.indices, found.boxes, found.distances]
        lengths = sorted({len(field) for field in fields})
        if book.centroids.ndim != 2 or lengths != [count]:
            shape = tuple(book.centroids.shape)
            return f"depth {depth}: centroids {shape} beside fields of length {lengths}"
        agnostic = book.membership.ndim == 2
        classes = book.membership.shape[1] if agnostic else int(book.membership.max()) + 1
        if classes > bank.n_classes:
            return f"depth {depth}: prototypes of {classes} classes for {bank.n_classes} logits"
    widths = [book.centroids.shape[1] for book in bank.codebooks]
    if any(below <= above for below, above in pairwise(widths)):
        return f"centroids {widths} wide, which must shrink with depth"
    return ""
