"""What a fit has found so far, between two of its passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from captum_kmex.bank.codebook import Codebook
from captum_kmex.bank.tensor_kinds import part
from captum_kmex.fitting.kept_patches import KeptPatches
from captum_kmex.fitting.ridge import RidgeSums
from captum_kmex.fitting.state import State
from captum_kmex.fitting.summary import Summary

__all__ = ["Fitted"]


class Fitted(State):
    """What a fit has found so far; everything but the codebooks' patches is saved.

    Args:
        summary: Figures of the images.
        ridge: Sums of the ridge head; empty where none is needed.
        codebooks: One a depth, the whole stack first.
        near: Rows of the sample near the prototypes, one a depth, where their patches are found
            once these are final; else none.

    Attributes:
        summary: As passed.
        ridge: As passed.
        codebooks: As passed; a later pass may put others in their place.
        near: As passed.
    """

    def __init__(
        self,
        summary: Summary,
        ridge: RidgeSums,
        codebooks: Sequence[Codebook],
        near: Sequence[KeptPatches] = (),
    ) -> None:
        super().__init__()
        self.summary, self.ridge, self.codebooks, self.near = summary, ridge, codebooks, near

    @classmethod
    def of(cls, saved: Mapping[str, Tensor], device: torch.device) -> Fitted:
        """Read a saved state."""
        found = cls(Summary(), RidgeSums(), [])
        found.restore(saved)
        depths = range(len(found.summary.weights))
        found.codebooks = [Codebook.of(part(saved, f"{depth}."), device) for depth in depths]
        near = [part(saved, f"{depth}.near.") for depth in depths]
        found.near = [KeptPatches(**tensors) for tensors in near if tensors]
        return found

    def parts(self) -> Iterator[tuple[str, State]]:
        """Yield figures and sums."""
        yield "summary", self.summary
        yield "ridge", self.ridge

    def state(self) -> dict[str, Tensor]:
        """Return figures, sums, codebooks and rows near them as tensors, to read with ``of``."""
        saved = super().state()
        for depth, book in enumerate(self.codebooks):
            saved |= {f"{depth}.{name}": tensor for name, tensor in book.state().items()}
        for depth, near in enumerate(self.near):
            saved |= {f"{depth}.near.{name}": tensor for name, tensor in near.state().items()}
        return saved
