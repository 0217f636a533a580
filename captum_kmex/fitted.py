"""What the two fitted attributions share: the bank, its life cycle and its checks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from captum.concept import Concept
from torch import Tensor, nn

from captum_kmex.bank import ModelFingerprint, PrototypeBank
from captum_kmex.base import Inputs, Layer, PrototypeAttribution
from captum_kmex.batches import IndexedBatches
from captum_kmex.concepts import to_concepts
from captum_kmex.exceptions import NotFittedError
from captum_kmex.fitting import (
    FitOptions,
    Observer,
    collect,
    describe,
    find_representatives,
    solve,
)
from captum_kmex.surrogate import Surrogate

__all__ = ["Classification", "FittedAttribution"]


@dataclass(frozen=True)
class Classification:
    """The surrogate's verdict beside the model's.

    Attributes:
        scores: Float tensor (N, C), larger for the likelier class.
        prediction: Integer tensor (N,).
        logits: Float tensor (N, C), the model's.
    """

    scores: Tensor
    prediction: Tensor
    logits: Tensor


class FittedAttribution(PrototypeAttribution):
    """An attribution with a ``PrototypeBank``, which ``fit`` or ``load`` gives it."""

    def __init__(
        self,
        model: nn.Module,
        layer: object,
        head: Layer | None,
        n_prototypes: int | Mapping[int, int],
        seed: int,
    ) -> None:
        super().__init__(model, layer, head)
        self.n_prototypes = n_prototypes
        self.seed = seed
        self._bank: PrototypeBank | None = None

    @property
    def is_fitted(self) -> bool:
        """Whether there are prototypes."""
        return self._bank is not None

    @property
    def bank_(self) -> PrototypeBank:
        """The fitted prototypes.

        Raises:
            NotFittedError: ``fit`` has not been called.
        """
        if self._bank is None:
            raise NotFittedError(
                f"this {self.get_name()} is not fitted, and what was asked for needs its "
                "prototypes; call fit(loader) first, or load(path, model)"
            )
        return self._bank

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bank to a safetensors file; see ``PrototypeBank.save``."""
        self.bank_.save(path)

    def classify(self, inputs: Inputs, additional_forward_args: object = None) -> Classification:
        """Return the surrogate's scores and prediction beside the model's logits."""
        raise NotImplementedError

    def predict(self, inputs: Inputs, additional_forward_args: object = None) -> Tensor:
        """Return the class (N,) that the prototypes predict.

        Raises:
            NotFittedError: ``fit`` has not been called.
        """
        return self.classify(inputs, additional_forward_args).prediction

    def to_concepts(
        self,
        dataset: Sequence[object],
        prototypes: Sequence[int] | None = None,
        *,
        depth: int = 0,
        **options: float,
    ) -> list[Concept]:
        """Return prototypes as Captum concepts, for TCAV on concepts nobody had to collect.

        Args:
            dataset: The training set of the fit.
            prototypes: Which prototypes; all if ``None``.
            depth: Which codebook, 0 for the whole stack.
            options: ``context`` and ``batch_size`` of ``captum_kmex.concepts.to_concepts``.

        Raises:
            NotFittedError: ``fit`` has not been called.
            ValueError: The bank has no representatives, or a prototype is out of range.
        """
        if prototypes is None:
            prototypes = range(len(self.bank_.codebooks[depth].centroids))
        return to_concepts(self.bank_, dataset, prototypes, depth=depth, **options)  # type: ignore[arg-type]

    def _layer_names(self) -> tuple[str, ...]:
        raise NotImplementedError

    def _batches(self, loader: Iterable[object]) -> IndexedBatches:
        parameter = next(self.model.parameters(), torch.empty(0))
        return IndexedBatches(loader, parameter.device)

    def _fit(
        self,
        loader: Iterable[object],
        observe: Observer,
        options: FitOptions,
        at_input: bool,
        weighting: object,
    ) -> None:
        """Fit and only then replace the bank, so that a failure leaves the old one."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            batches = self._batches(loader)
            result = collect(batches, observe, options)
            codebooks = solve(result, options)
            codebooks = find_representatives(batches, observe, codebooks, options)
        surrogate: Surrogate | None = None
        names = self._layer_names()
        if result.ridge is not None:
            surrogate = result.ridge.solve(names[-1])
        self._bank = PrototypeBank(
            method=self.get_name(),
            layers=names,
            at_input=at_input,
            weights=result.weights,
            codebooks=tuple(codebooks),
            n_classes=result.n_classes,
            input_range=(result.low, result.high),
            fingerprint=ModelFingerprint.of(self.model),
            provenance=describe(result, options, weighting),
            surrogate=surrogate,
        )

    def _adopt(self, bank: PrototypeBank, strict: bool) -> None:
        """Take over a loaded bank.

        Raises:
            ValueError: The bank is of another method, model or layer.
        """
        if bank.method != self.get_name():
            raise ValueError(
                f"the bank was fitted by {bank.method}, not by {self.get_name()}; use "
                f"{bank.method}.load"
            )
        self._layer_names()  # names the layer that this model lacks
        if strict:
            bank.check_model(self.model)
        self._bank = bank

    def _check_bank(self, images: Tensor, at_input: bool) -> None:
        """Compare a call with the fit.

        Raises:
            NotFittedError: There is no bank.
            ValueError: Other layers, another side of them, or inputs far outside the fit's.
        """
        bank = self.bank_
        if bank.layers != self._layer_names():
            raise ValueError(
                f"the bank was fitted on layers {list(bank.layers)}, this object has "
                f"{list(self._layer_names())}; fit again"
            )
        if bank.at_input != at_input:
            raise ValueError(
                f"the bank was fitted with attribute_to_layer_input={bank.at_input}; explain "
                "with the same, or fit again"
            )
        low, high = bank.input_range
        least, most = float(images.min()), float(images.max())
        margin = high - low
        if least < low - margin or most > high + margin:
            raise ValueError(
                f"inputs range from {least:.4g} to {most:.4g}, the fit saw {low:.4g} to "
                f"{high:.4g}; preprocess them as the fit's images were"
            )

    def _check_classes(self, classes: Tensor) -> None:
        """Raise ``ValueError`` for a class that the bank has no prototypes of."""
        membership = self.bank_.codebooks[0].membership
        if membership.ndim == 1:
            known = membership.unique().to(classes.device)
            missing = classes[~torch.isin(classes, known)]
            if len(missing):
                raise ValueError(
                    f"class {int(missing[0])} has no prototypes; the bank has classes "
                    f"{known.tolist()[:20]}. Fit with images of it"
                )
