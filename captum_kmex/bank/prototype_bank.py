"""``PrototypeBank``: the only fitted state, and its safetensors file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from captum_kmex.arguments import checked, resolve_depth
from captum_kmex.bank.codebook import Codebook
from captum_kmex.bank.fields import METHODS, check_bank_tensors, check_provenance, check_settings
from captum_kmex.bank.fingerprint import ModelFingerprint
from captum_kmex.bank.representatives import Representatives
from captum_kmex.bank.ridge_head import Surrogate
from captum_kmex.bank.summary import bank_html, bank_summary
from captum_kmex.bank.tensor_kinds import part
from captum_kmex.exceptions import UncheckedFileWarning, warn_user
from captum_kmex.files.atomic import discard_unfinished
from captum_kmex.files.fields import Fields
from captum_kmex.files.tensor_file import read_tensors, write_tensors

__all__ = ["Codebook", "ModelFingerprint", "PrototypeBank"]

SCHEMA_VERSION = 2
_HEADER = "captum_kmex"
_SCHEMAS = {1: False, 2: True}  # which are read, and whether they have a checksum
_REMEDY = "save the bank again, or fit again"
_MOST_TENSORS = 1000
_FIELDS = (
    "schema_version",
    "method",
    "layers",
    "at_input",
    "weights",
    "n_depths",
    "n_classes",
    "input_range",
    "fingerprint",
    "provenance",
    "surrogate",
    "settings",
)


@dataclass(frozen=True, eq=False, repr=False)
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
        surrogate: Ridge head that stands in for the model's, where that is not linear.
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
            ValueError: The bank holds what ``load`` would refuse, such as NaN.
        """
        path = Path(path)
        tensors, header = _tensors(self), _header(self)
        try:
            _assemble(json.loads(json.dumps(header, allow_nan=False)), tensors)
        except ValueError as error:
            raise ValueError(f"the bank cannot be saved: {error}; fit again") from error
        write_tensors(path, tensors, _HEADER, header)
        discard_unfinished(path)

    @classmethod
    @checked
    def load(cls, path: str | os.PathLike[str]) -> PrototypeBank:
        """Read a bank; nothing is unpickled, and nothing of the file is used afterwards.

        Raises:
            ValueError: The file is truncated, foreign, of another schema, or its content is
                not what was written.
            FileNotFoundError: There is no such file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no bank at {path}; write one with save()")
        tensors, header = read_tensors(
            path, _HEADER, "prototype bank", _REMEDY, schemas=_SCHEMAS, most=_MOST_TENSORS
        )
        try:
            bank = _assemble(header, tensors)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; the file is damaged, fit and save again") from error
        if not _SCHEMAS[header["schema_version"]]:  # type: ignore[index]  # as it was checked
            warn_user(
                f"{path} was written by release 0.1.0, without a checksum, so that damage to its "
                "numbers cannot be seen; load and save it once to add one",
                UncheckedFileWarning,
            )
        return bank

    def __repr__(self) -> str:
        return bank_summary(self)

    def _repr_html_(self) -> str:
        return bank_html(self)

    @property
    def has_logits(self) -> bool:
        """Whether the model of the fit returned logits; if not, prototypes vote for no class."""
        return self.provenance.get("has_logits") is not False

    def depth(self, depth: object) -> int:
        """Return the position of a codebook.

        Args:
            depth: Its shallowest layer's name, or its position; a negative one counts from the
                deepest.

        Raises:
            ValueError: No such depth.
        """
        return resolve_depth(depth, self.layers, len(self.codebooks))

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
            found = vars(book.representatives).items()
            tensors |= {f"{depth}.representatives.{name}": tensor for name, tensor in found}
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


def _assemble(header: Mapping[str, object], tensors: Mapping[str, Tensor]) -> PrototypeBank:
    """Return the bank of a header and tensors.

    Raises:
        ValueError: A field or tensor is missing, unknown, of a wrong type or out of range, or
            two do not fit together.
    """
    fields = Fields(dict(header))
    fields.only(*_FIELDS)
    layers, n_classes = fields.texts("layers"), fields.integer("n_classes", 1)
    weights, depths = fields.numbers("weights", above=0), fields.integer("n_depths", 1)
    if not depths == max(1, len(layers)) == len(weights):
        raise ValueError(f"{depths} codebooks and {len(weights)} weights for {len(layers)} layers")
    about = fields.part("provenance")
    check_provenance(about, n_classes)
    n_logits = about.integer("n_logits") if "n_logits" in about else n_classes
    check_bank_tensors(tensors, depths, n_classes, n_logits if "surrogate" in fields else None)
    codebooks = tuple(_codebook(tensors, depth) for depth in range(depths))
    return PrototypeBank(
        method=_method(fields, layers, codebooks[0].is_agnostic),
        layers=layers,
        at_input=fields.flag("at_input"),
        weights=weights,
        codebooks=codebooks,
        n_classes=n_classes,
        input_range=_input_range(fields),
        fingerprint=_fingerprint(fields.part("fingerprint")),
        provenance=fields.mapping("provenance"),
        surrogate=_ridge_head(fields, tensors, layers),
        settings=fields.mapping("settings"),
    )


def _method(fields: Fields, layers: tuple[str, ...], is_agnostic: bool) -> str:
    """Return the name of the class that fitted a bank, which can have fitted such a one."""
    method = fields.text("method", METHODS)
    if method != METHODS[0] and (len(layers) > 1 or is_agnostic):
        raise ValueError(f"{method} has one layer, and prototypes of classes")
    check_settings(fields.part("settings"), method, len(layers))
    return method


def _input_range(fields: Fields) -> tuple[float, float]:
    found = fields.numbers("input_range")
    if len(found) != 2 or found[0] > found[1]:
        raise ValueError(f"input_range is {found[:2]}, not a least and a greatest value")
    return found[0], found[1]


def _fingerprint(fields: Fields) -> ModelFingerprint:
    fields.only("architecture", "weights")
    return ModelFingerprint(fields.digest("architecture"), fields.digest("weights"))


def _ridge_head(
    fields: Fields, tensors: Mapping[str, Tensor], layers: tuple[str, ...]
) -> Surrogate | None:
    if "surrogate" not in fields:
        return None
    about = fields.part("surrogate")
    about.only("layer", "r2")
    columns, bias = tensors["surrogate.columns"], tensors["surrogate.bias"]
    return Surrogate(about.text("layer", layers[-1:]), columns, bias, about.number("r2"))


def _codebook(tensors: Mapping[str, Tensor], depth: int) -> Codebook:
    found = part(tensors, f"{depth}.")
    book, patches = Codebook.of(found, found["centroids"].device), part(found, "representatives.")
    return dataclasses.replace(
        book, representatives=Representatives(**patches) if patches else None
    )
