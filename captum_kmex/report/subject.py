"""What a report is about: an attribution with segments, if there is one, and maps of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from captum.attr import Attribution
from torch import Tensor, nn

from captum_kmex.attributions.layer_kmeans import LayerKMeansAttribution
from captum_kmex.bank.prototype_bank import PrototypeBank

__all__ = ["Subject"]


@dataclass(frozen=True, eq=False)
class Subject:
    """What is reported.

    Attributes:
        model: Gives logits (N, J), or (N,), of images.
        main: Makes segments and ledgers, if there is one.
        methods: Attributions by name that make maps only.
        main_name: Name of the main attribution.
    """

    model: Callable[[Tensor], object]
    main: LayerKMeansAttribution | None
    methods: Mapping[str, Attribution]
    main_name: str = ""

    @classmethod
    def of(cls, given: Attribution | Mapping[str, Attribution]) -> Subject:
        """Sort one attribution or several: the first of ours with segments is the main one."""
        named = dict(given) if isinstance(given, Mapping) else {type(given).__name__: given}
        ours = [name for name, a in named.items() if isinstance(a, LayerKMeansAttribution)]
        main = named.pop(ours[0]) if ours else None
        leading = main or next(iter(named.values()))
        return cls(getattr(leading, "model", None) or leading.forward_func, main, named, *ours[:1])

    @property
    def bank(self) -> PrototypeBank | None:
        """The main attribution's prototypes, once fitted."""
        return self.main.bank_ if self.main is not None and self.main.is_fitted else None

    @property
    def name(self) -> str:
        """Name of the model."""
        if isinstance(self.model, nn.Module):
            return type(self.model).__name__
        return str(getattr(self.model, "__name__", "Model"))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        parameters = self.model.parameters() if isinstance(self.model, nn.Module) else iter(())
        return next(parameters, torch.empty(0)).device
