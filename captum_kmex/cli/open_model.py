"""The model of a command with all that belongs to it: preprocessing, class names, layers."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from unicodedata import normalize

import torch
from torch import Tensor, nn

from captum_kmex.arguments.inputs import convolved_sides
from captum_kmex.attributions.layer_kmeans import LayerKMeansAttribution
from captum_kmex.classes import class_count
from captum_kmex.cli.answer import say
from captum_kmex.exceptions import UsageError
from captum_kmex.grids import KINDS
from captum_kmex.loading.class_names import names_of_file
from captum_kmex.loading.models import ModelSource, model_source, with_weights
from captum_kmex.loading.preprocessing import IMAGENET, Preprocessing
from captum_kmex.loading.zoos import IMAGENET_CLASSES, wordnet_numbers
from captum_kmex.model.layer_suggestion import candidate_layers
from captum_kmex.model.outputs import as_logits, has_logits
from captum_kmex.text.descriptions import described

__all__ = ["Subject", "attribution_of", "class_index", "folder_classes", "open_subject"]

_SETTINGS = ("resize", "crop", "mean", "std", "pixel_range", "ignore_exif")
_USUAL = 4  # of them are what a model was trained with


@dataclass(frozen=True)
class Subject:
    """A model to explain.

    Attributes:
        model: In evaluation mode, on its device.
        device: Where it is.
        preprocessing: From a picture to its input.
        class_names: Names of its classes, if they are known.
        is_imagenet: They are ImageNet's, in its order.
    """

    model: nn.Module
    device: torch.device
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    is_imagenet: bool = False

    @cached_property
    def example(self) -> Tensor:
        """An input (1, C, H, W) without meaning."""
        shape = (1, len(self.preprocessing.mean), *self.preprocessing.crop)
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(self.device)

    def numbered(self, name: str) -> list[int]:
        """Return the classes of a name, however its accents are written, or of a WordNet number."""
        names = self._numbers.get(normalize("NFC", name), [])
        if names or not self.is_imagenet:
            return names
        number = wordnet_numbers().get(name)
        return [] if number is None else [number]

    @cached_property
    def _numbers(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for number, name in enumerate(self.class_names or ()):
            found.setdefault(normalize("NFC", name), []).append(number)
        return found

    @cached_property
    def n_classes(self) -> int:
        """The number of classes: of logits, or two of a single one."""
        return class_count(self.n_logits)

    @cached_property
    def n_logits(self) -> int:
        """The number of logits."""
        return _n_logits(self.model, self.example)


def open_subject(
    options: argparse.Namespace, record: Mapping[str, object] | None = None, *, trained: bool = True
) -> Subject:
    """Load the model that the options name.

    Args:
        options: The parsed command line.
        record: What a bank's fit noted, whose preprocessing and class names hold then.
        trained: Refuse published architectures without weights.

    Raises:
        UsageError: No weights; or preprocessing is given beside a bank's own.
    """
    source = model_source(options.model)
    if trained and source.needs_weights and options.weights is None:
        raise UsageError(
            f"{options.model} has random weights; pass --weights FILE, or --weights DEFAULT to "
            "download the published ones"
        )
    device = _device(options.device)
    model = with_weights(source, options.weights, options.num_classes).to(device)
    preprocessing = _preprocessing(options, source, model, record or {})
    say(f"preprocessing: {preprocessing}", quiet=options.quiet)
    subject = Subject(model, device, preprocessing, None)
    names = _class_names(options, source, subject, record or {})
    usual = source.class_names(model, subject.n_classes) if names else None
    is_imagenet = len(names or ()) == IMAGENET_CLASSES and list(names or ()) == list(usual or ())
    return Subject(model, device, preprocessing, names, is_imagenet)


def attribution_of(
    options: argparse.Namespace, subject: Subject, *, n_prototypes: int = 5, n_clusters: int = 20
) -> LayerKMeansAttribution:
    """Return an unfitted attribution on the layers asked for, or on suggested ones."""
    layers = options.layers
    if not layers or layers == ["suggest"]:
        found = [c for c in candidate_layers(subject.model, subject.example) if c.is_suggested]
        shown = ", ".join(f"{c.name} ({c.grid[0]}x{c.grid[1]})" for c in found)
        say(f"layers: {shown}, as suggested", quiet=options.quiet)
        layers = [c.name for c in found]
    return LayerKMeansAttribution(
        subject.model,
        layers,
        n_prototypes=n_prototypes,
        n_clusters=n_clusters,
        seed=options.seed,
    )


def class_index(text: str | None, subject: Subject) -> int | None:
    """Read a class by number or name, and return its logit.

    Raises:
        UsageError: No class has that name, or none the number; names the nearest. Or it is
            class 0 of a single logit.
    """
    if text is None:
        return None
    number = _class_number(text, subject)
    if subject.n_logits > 1:
        return number
    if number % subject.n_classes == 0:
        raise UsageError(
            f"class {text!r} has no logit of its own: the model's single logit speaks for class 1, "
            "and evidence below 0 for class 0; leave out --target and --contrast"
        )
    return 0


def _class_number(text: str, subject: Subject) -> int:
    names = subject.class_names or ()
    numbers = subject.numbered(text)
    if len(numbers) > 1:
        raise UsageError(f"classes {numbers} are all named {text!r}; give a number")
    if numbers:
        return numbers[0]
    try:
        number = int(text)
    except ValueError:
        near = difflib.get_close_matches(text, names, cutoff=0.4) or names[:5]
        hint = f"; did you mean {' or '.join(near)}?" if near else "; give its number"
        raise UsageError(f"no class is named {text!r}{hint}") from None
    if not -subject.n_classes <= number < subject.n_classes:
        raise UsageError(f"class {number} is out of range for {subject.n_classes} classes")
    return number


def folder_classes(folders: Sequence[str], subject: Subject) -> list[int] | None:
    """Return the class of each folder, by its name or its number in WordNet.

    Returns:
        The classes; ``None`` if a folder is named as no class.

    Raises:
        ValueError: Several classes have a folder's name, or several folders are one class.
    """
    found = [subject.numbered(folder) for folder in folders]
    if not folders or not all(found):
        return None if folders else []
    for folder, numbers in zip(folders, found, strict=True):
        if len(numbers) > 1:
            raise ValueError(
                f"classes {numbers} are all named {folder!r}; give --class-names with a name for "
                "each, and folders of these names"
            )
    classes = [numbers[0] for numbers in found]
    if len(set(classes)) < len(classes):
        raise ValueError(f"several of the folders {list(folders)[:5]} are one class; join them")
    return classes


def _device(name: str) -> torch.device:
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    elif (name == "cuda" and not torch.cuda.is_available()) or (name == "mps" and not has_mps):
        raise UsageError(f"this PyTorch has no {name} device; pass --device auto or cpu")
    return torch.device(name)


def _preprocessing(
    options: argparse.Namespace,
    source: ModelSource,
    model: nn.Module,
    record: Mapping[str, object],
) -> Preprocessing:
    given = [getattr(options, name) for name in _SETTINGS]
    recorded = record.get("preprocessing")
    if isinstance(recorded, Mapping):
        if any(value is not None for value in given):
            raise UsageError(
                "the bank's pictures were preprocessed in its own way, which holds here too; leave "
                "out --resize, --crop, --mean, --std, --pixel-range and --ignore-exif"
            )
        return Preprocessing.of(recorded)
    usual = IMAGENET if None not in given[:_USUAL] else source.preprocessing(model)
    return usual.changed(*given)


def _class_names(
    options: argparse.Namespace,
    source: ModelSource,
    subject: Subject,
    record: Mapping[str, object],
) -> tuple[str, ...] | None:
    recorded = record.get("class_names")
    names: Sequence[str] | None
    if options.class_names is not None:
        return names_of_file(Path(options.class_names), subject.n_classes)
    if recorded is not None and not _is_list_of_text(recorded):
        raise ValueError("the bank's note of its class names is damaged; give --class-names FILE")
    if isinstance(recorded, list) and len(recorded) == subject.n_classes:
        names = recorded
    else:
        names = source.class_names(subject.model, subject.n_classes)
    return None if names is None else tuple(names)


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _n_logits(model: nn.Module, example: Tensor) -> int:
    try:
        with torch.inference_mode():
            output = model(example)
    except RuntimeError as error:
        sides = convolved_sides(model)
        if sides and 2 not in sides:
            raise ValueError(
                f"the model is one of {KINDS[sides[0]]}, by its convolutions, and the command line "
                "explains pictures; explain it in Python, with LayerKMeansAttribution"
            ) from error
        raise ValueError(
            f"the model does not take inputs of shape {tuple(example.shape)} ({error}); give the "
            "preprocessing of its training, or the model of the bank"
        ) from error
    if not has_logits(output, example):
        raise ValueError(
            f"the model must return logits (N, J); got {described(output)}. Name a function that "
            "wraps it"
        )
    return int(as_logits(output, example).shape[1])
