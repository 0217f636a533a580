"""What ``explain`` finds about a batch, as data: maps, segments, scores and the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import numpy as np
from torch import Tensor

from captum_kmex.arguments import checked, resolve_index
from captum_kmex.classes import class_count
from captum_kmex.explaining.account import Account
from captum_kmex.explaining.evidence import Question
from captum_kmex.explaining.explainer import Explainer
from captum_kmex.explaining.ledger import LedgerRow
from captum_kmex.explaining.segmenters import Competition
from captum_kmex.text.class_names import ClassNames, read_class_names

__all__ = ["FORMAT", "SCHEMA_VERSION", "ExplanationData"]

_Data = TypeVar("_Data", bound="ExplanationData")

FORMAT = "captum_kmex.explanation"
SCHEMA_VERSION = 1
_OF_IMAGES = (  # fields with an entry an image
    "inputs", "target", "contrast", "logits", "attribution", "segments", "ledger", "bias", "output",
    "class_scores", "prediction", "enough", "needed", "not_linear",
)  # fmt: skip
_ALWAYS = ("target", "logits", "attribution", "segments", "bias", "output")
_IF_THERE = ("contrast", "class_scores", "prediction", "not_linear")


@dataclass(frozen=True, eq=False)
class ExplanationData:
    """Everything ``explain`` found about a batch; ``[i]`` is that of one image.

    Attributes:
        inputs: The images ``(N, C, *size)``.
        layers: Layers of the depth explained, shallow to deep.
        target: Explained class (N,).
        contrast: Class it is contrasted with (N,), or ``None``.
        logits: The model's logits (N, J).
        attribution: Map ``(N, 1, *grid)`` in logit units.
        segments: Segment of each pixel ``(N, *grid)``, as it was given if it comes from outside.
        ledger: Rows of each image, largest absolute evidence first; they add up to output
            minus bias, and minus ``not_linear`` if there is any.
        bias: What no pixel accounts for (N,): the head's bias, or the logit of an empty map; of
            measured evidence, the output with everything removed.
        output: The explained logit, or difference of logits (N,).
        class_scores: Score of each class (N, C) by the attribution's ``vote``, if fitted.
        prediction: The class of the highest score (N,), if fitted.
        restricted: Only prototypes of the explained class competed for the pixels.
        surrogate_r2: If the model has no linear head: the R2 of the ridge surrogate that
            stands in for it; ``delta`` is what it misses.
        segments_given: Segments come from outside; map and ledger do not depend on the layers
            but the deepest.
        evidence: ``"allocated"``: the head's own, carried down; or ``"measured"`` by removal.
        enough: What ``sufficient`` returns of each image, if evidence was measured.
        needed: What ``necessary`` returns, likewise.
        head: What makes the map: ``"exact"``, the model's own head; ``"linearised"``, its tail
            linearised at each image; ``"ridge"``, the surrogate of a fit; ``"own"``, the user's.
        not_linear: What the linearisation leaves over of the output (N,), if ``head`` is that:
            the larger beside the output, the less the map tells.
        class_names: A name for each class, if ``named`` gave them, for pictures and tables.
    """

    inputs: Tensor
    layers: tuple[str, ...]
    target: Tensor
    contrast: Tensor | None
    logits: Tensor
    attribution: Tensor
    segments: Tensor
    ledger: tuple[tuple[LedgerRow, ...], ...]
    bias: Tensor
    output: Tensor
    class_scores: Tensor | None = None
    prediction: Tensor | None = None
    restricted: bool = False
    surrogate_r2: float | None = None
    segments_given: bool = False
    evidence: str = "allocated"
    enough: tuple[tuple[int, ...] | None, ...] | None = None
    needed: tuple[tuple[int, ...] | None, ...] | None = None
    head: str = "exact"
    not_linear: Tensor | None = None
    class_names: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls: type[_Data],
        images: Tensor,
        explainer: Explainer,
        question: Question,
        depth: int,
        competition: Competition,
        account: Account,
    ) -> _Data:
        """Gather everything about a batch that was read once.

        Args:
            images: The images ``(N, C, *size)``.
            explainer: The batch.
            question: What is explained, in logit units.
            depth: Place of the shallowest layer.
            competition: Who competes for the pixels.
            account: What was found of it.
        """
        verdict = account.verdict
        return cls(
            inputs=images.detach(),
            layers=explainer.reading.layers[depth:],
            target=question.target,
            contrast=question.contrast,
            logits=explainer.logits,
            attribution=account.maps,
            segments=account.segments,
            ledger=account.ledger,
            bias=account.bias,
            output=question.output(explainer.logits),
            class_scores=None if verdict is None else verdict.scores,
            prediction=None if verdict is None else verdict.prediction,
            restricted=competition.own_class is not None,
            surrogate_r2=None if account.evidence == "measured" else explainer.ridge_r2,
            segments_given=competition.given is not None,
            evidence=account.evidence,
            enough=account.enough,
            needed=account.needed,
            head=explainer.head_kind if account.evidence == "allocated" else "exact",
            not_linear=account.not_linear,
        )

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self: _Data, index: int | slice) -> _Data:
        """Return the explanation of one image, as a batch of one; or that of several.

        Raises:
            IndexError: There is no such image.
            TypeError: Neither a number nor a slice.
        """
        if not isinstance(index, slice):
            place = range(len(self))[index]  # raises what a list would
            index = slice(place, place + 1)
        found = {name: getattr(self, name) for name in _OF_IMAGES}
        there = {name: value[index] for name, value in found.items() if value is not None}
        return replace(self, **there)

    def __iter__(self: _Data) -> Iterator[_Data]:
        return (self[i] for i in range(len(self)))

    @checked
    def named(self: _Data, class_names: ClassNames) -> _Data:
        """Return the same with names of the classes, for its pictures and tables.

        Args:
            class_names: As in ``Explanation.plot``.

        Raises:
            TypeError: No names.
            ValueError: More or fewer than classes.
        """
        names = read_class_names(class_names, class_count(self.logits.shape[1]))
        return replace(self, class_names=names)

    @property
    def delta(self) -> Tensor:
        """Sum of map, bias and ``not_linear`` minus output (N,): 0 where the map is complete."""
        total = self.attribution.flatten(1).sum(1) + self.bias
        return (total if self.not_linear is None else total + self.not_linear) - self.output

    @property
    def origin(self) -> str:
        """What the segments come from, in words: the layers, shallow to deep, or outside."""
        return "segments given" if self.segments_given else " + ".join(self.layers)

    @checked
    def sufficient(self, index: int = 0) -> tuple[int, ...] | None:
        """Return the fewest segments that keep the class when all others are removed.

        Segments are taken in the order of their measured evidence, and each number of them was
        tried on the model.

        Returns:
            Their numbers; ``None`` if the image is another class's, or no number keeps it.

        Raises:
            ValueError: The evidence was not measured.
        """
        return self._minimal(self.enough, index)

    @checked
    def necessary(self, index: int = 0) -> tuple[int, ...] | None:
        """Return the fewest segments without which the class is another one.

        As ``sufficient``; ``None`` also if the class stays when all is removed.
        """
        return self._minimal(self.needed, index)

    def _minimal(
        self, found: tuple[tuple[int, ...] | None, ...] | None, index: int
    ) -> tuple[int, ...] | None:
        if found is None:
            raise ValueError(
                "evidence was allocated, and no segment removed; explain(x, evidence='measured')"
            )
        return found[resolve_index("index", index, len(self))]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the tensors but the inputs as NumPy arrays, those that there are."""
        tensors = {name: getattr(self, name) for name in (*_ALWAYS, *_IF_THERE)}
        return {
            name: tensor.cpu().numpy() for name, tensor in tensors.items() if tensor is not None
        }

    def manifest(self) -> dict[str, object]:
        """Return what can be said in JSON: the ledger and its sums, image by image."""
        return {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "layers": list(self.layers),
            "restricted": self.restricted,
            "segments_given": self.segments_given,
            "evidence": self.evidence,
            "units": "logit",
            "head": self.head,
            "surrogate_r2": self.surrogate_r2,
            "arrays": "arrays.npz",
            "images": [self._manifest_of(i) for i in range(len(self.ledger))],
        }

    def _manifest_of(self, i: int) -> dict[str, object]:
        return {
            "target": int(self.target[i]),
            "contrast": None if self.contrast is None else int(self.contrast[i]),
            "output": float(self.output[i]),
            "bias": float(self.bias[i]),
            "not_linear": None if self.not_linear is None else float(self.not_linear[i]),
            "delta": float(self.delta[i]),
            "prediction": None if self.prediction is None else int(self.prediction[i]),
            "picture": f"{i:04d}.png",
            "sufficient": None if self.enough is None else self.enough[i],
            "necessary": None if self.needed is None else self.needed[i],
            "ledger": [
                {"number": number, **asdict(row)}
                for number, row in enumerate(self.ledger[i], start=1)
            ],
        }
