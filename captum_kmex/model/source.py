"""What is read: a model, and what its user said about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from captum_kmex.model.layout import Layout
from captum_kmex.model.prepared import Preparation

__all__ = ["Source"]


@dataclass(frozen=True, eq=False)
class Source:
    """What is read: a model, and what its user said about it.

    Attributes:
        model: The plain module.
        head: Its linear layer, where the user named it.
        axis: The dimension of its layers' channels, where the user said it.
        preparation: Makes the copy that is run in its place, if there is one.
    """

    model: nn.Module
    head: str | nn.Module | None = None
    axis: Layout | None = None
    preparation: Preparation | None = None

    def running(self, layers: Sequence[str] = ()) -> nn.Module:
        """Return the module that is run."""
        if self.preparation is None:
            return self.model
        return self.preparation.current(self.model, layers)
