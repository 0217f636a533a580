"""What a fit is of, apart from data and options: a method, a model and its layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from captum_kmex._version import __version__
from captum_kmex.bank.fingerprint import ModelFingerprint
from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.distributed import world_size
from captum_kmex.fitting.fitted import Fitted
from captum_kmex.fitting.options import FitOptions
from captum_kmex.fitting.progress import ProgressCheck
from captum_kmex.fitting.run import describe

__all__ = ["FitSubject"]


@dataclass(frozen=True, eq=False)
class FitSubject:
    """What is fitted, and how that is told.

    Attributes:
        method: Name of the attribution's class.
        model: The plain module.
        layers: Names of its layers, shallow to deep.
        at_input: They are read at their input.
        settings: The constructor's options, fit for JSON.
        has_masses: Rows are sampled by their norm too.
    """

    method: str
    model: nn.Module
    layers: tuple[str, ...]
    at_input: bool
    settings: dict[str, object]
    has_masses: bool

    def identity(self, options: FitOptions) -> dict[str, object]:
        """Return what must be equal on all machines, and for an interrupted fit to go on."""
        identity = {
            "method": self.method,
            "model": ModelFingerprint.of(self.model).weights,
            "layers": self.layers,
            "at_input": self.at_input,
            "settings": self.settings,
            "options": options.describe(),
            "machines": world_size(),
            "version": __version__,
        }
        as_saved: dict[str, object] = json.loads(json.dumps(identity))
        return as_saved

    def progress_check(self, options: FitOptions, identity: Mapping[str, object]) -> ProgressCheck:
        """Return what a checkpoint of a fit is compared with."""
        depths = max(1, len(self.layers))
        n_batches = identity.get("batches") if identity.get("order") else None
        return ProgressCheck(
            options, depths, self.has_masses, n_batches if isinstance(n_batches, int) else None
        )

    def bank(self, found: Fitted, options: FitOptions, has_logits: bool) -> PrototypeBank:
        """Return the bank of what a fit found, of a model with or without logits."""
        summary, ridge = found.summary, found.ridge
        outputs = {} if has_logits else {"has_logits": False}
        return PrototypeBank(
            method=self.method,
            layers=self.layers,
            at_input=self.at_input,
            weights=summary.weights,
            codebooks=tuple(found.codebooks),
            n_classes=summary.n_classes,
            input_range=(summary.low, summary.high),
            fingerprint=ModelFingerprint.of(self.model),
            provenance=describe(found, options) | outputs,
            surrogate=ridge.solve(self.layers[-1]) if ridge else None,
            settings=self.settings,
        )
