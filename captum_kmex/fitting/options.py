"""What a fit is told, and what one forward pass gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from captum_kmex.data.batches import Batch
from captum_kmex.data.labels import Labels, class_pairs
from captum_kmex.fitting.rows import RowSource

__all__ = ["FitOptions", "Observation", "Observer"]


@dataclass(frozen=True)
class FitOptions:
    """Options of a fit, documented and checked by ``FittedAttribution.fit``."""

    n_prototypes: int | Mapping[int, int]
    labels: Labels = "target"
    classes: tuple[int, ...] | None = None
    n_init: int = 10
    max_iter: int = 100
    refine: int = 0
    seed: int = 0
    memory_budget: int = 2 * 2**30
    n_representatives: int = 5
    patch_search: str = "sample"

    @property
    def keeps_places(self) -> bool:
        """Whether patches are looked for among the rows of the sample."""
        return self.n_representatives > 0 and self.patch_search == "sample"

    @property
    def n_passes(self) -> int:
        """Passes over the data behind the first."""
        return self.refine + (self.n_representatives > 0 and self.patch_search == "exact")

    def count(self, c: int) -> int:
        """Return the number of prototypes of a class."""
        if isinstance(self.n_prototypes, int):
            return self.n_prototypes
        if c not in self.n_prototypes:
            raise ValueError(
                f"n_prototypes has no entry for class {c}; it has {sorted(self.n_prototypes)}"
            )
        return self.n_prototypes[c]

    def pairs(self, batch: Batch, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return (image, class) pairs of a batch, of the classes to fit."""
        images, classes = class_pairs(self.labels, batch.targets, logits)
        if self.classes is None:
            return images, classes
        wanted = torch.isin(classes, torch.tensor(self.classes, device=classes.device))
        return images[wanted], classes[wanted]

    def describe(self) -> dict[str, object]:
        """Return the options, fit for JSON."""
        settings = asdict(self)
        if not isinstance(self.n_prototypes, int):
            settings["n_prototypes"] = {str(c): k for c, k in self.n_prototypes.items()}
        return settings


@dataclass(frozen=True)
class Observation:
    """What one forward pass gives a fit.

    Attributes:
        logits: Float tensor (N, J).
        sources: Rows at each depth, the whole stack first.
        weights: Block weights, one a layer.
        pooled: Pooled features (N, D) for the ridge head, where one is needed.
    """

    logits: Tensor
    sources: Sequence[RowSource]
    weights: tuple[float, ...] = (1.0,)
    pooled: Tensor | None = None


Observer = Callable[[Batch], Observation]
