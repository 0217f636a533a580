"""The ridge head: what stands in for a model's own head where that is not affine in a map."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from captum_kmex.model.head import LinearHead

__all__ = ["Surrogate"]


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A linear head fitted to the model's logits on pooled features of one layer.

    Attributes:
        layer: Name of the layer whose spatial mean it reads.
        columns: Float tensor (J, D).
        bias: Float tensor (J,).
        r2: Share of the logits' variance that it explains, on the images of the fit.
    """

    layer: str
    columns: Tensor
    bias: Tensor
    r2: float

    def head(self, like: Tensor) -> LinearHead:
        """Return it as a linear head, on the device and in the dtype of ``like``."""
        return LinearHead(self.columns.to(like), self.bias.to(like))
