"""The first pass's sums for the ridge head, which stands in for a head that is not affine."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from captum_kmex.bank.ridge_head import Surrogate
from captum_kmex.bank.tensor_kinds import INTEGER, TensorKind
from captum_kmex.fitting.state import State, added

__all__ = ["RidgeSums"]

_PENALTY = 1e-3  # of the features' mean variance, an image
_WIDE = torch.float64
_SUMS = {
    "features": TensorKind(_WIDE, ("/pooled",)),
    "logits": TensorKind(_WIDE, ("/logits",)),
    "gram": TensorKind(_WIDE, ("/pooled", "/pooled")),
    "cross": TensorKind(_WIDE, ("/pooled", "/logits")),
    "squares": TensorKind(_WIDE, ("/logits",), 0),
}


class RidgeSums(State):
    """Sums from which the ridge regression of logits on features is solved in one pass.

    Attributes:
        count: Images taken in.
        features: Float64 tensor (D,), the sum of all features; like all sums 0 at first.
        logits: Float64 tensor (J,).
        gram: Float64 tensor (D, D), inner products of features.
        cross: Float64 tensor (D, J), products of features and logits.
        squares: Float64 tensor (J,), squared logits.

    Reference:
        Hoerl & Kennard, ridge regression (1970).
    """

    count: int
    features: Tensor
    logits: Tensor
    gram: Tensor
    cross: Tensor
    squares: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.declare("count", 0, TensorKind(INTEGER, (), 0), added)
        for name, kind in _SUMS.items():
            self.declare(name, torch.zeros((), dtype=_WIDE), kind, added)

    def __bool__(self) -> bool:
        """Whether anything was taken in."""
        return self.count > 0

    def add(self, features: Tensor, logits: Tensor) -> None:
        """Take in pooled features (N, D) and logits (N, J); sums are kept in float64."""
        x, y = features.cpu().double(), logits.cpu().double()
        self.count += len(x)
        self.features = self.features + x.sum(0)
        self.logits = self.logits + y.sum(0)
        self.gram = self.gram + x.T @ x
        self.cross = self.cross + x.T @ y
        self.squares = self.squares + y.square().sum(0)

    def kinds(self, saved: Mapping[str, Tensor]) -> dict[str, TensorKind]:
        """Return what saved sums must be; all zeros where no ridge head is needed."""
        if "gram" in saved and saved["gram"].ndim:
            return super().kinds(saved)
        none = {name: TensorKind(_WIDE, (), 0, 0) for name in _SUMS}
        return {"count": TensorKind(INTEGER, (), 0, 0)} | none

    def check_values(self, saved: Mapping[str, Tensor], prefix: str = "") -> None:
        """Raise ``ValueError`` for sums of nothing, or products of none."""
        gram = saved["gram"]
        if not gram.ndim:
            return
        if not int(saved["count"]):
            raise ValueError(f"{prefix}count is 0, of sums of something")
        if not (bool((gram.diagonal() >= 0).all()) and torch.allclose(gram, gram.T)):
            raise ValueError(f"{prefix}gram is no matrix of products")

    def solve(self, layer: str) -> Surrogate:
        """Return the ridge head of everything taken in."""
        n = self.count
        x_mean, y_mean = self.features / n, self.logits / n
        gram = self.gram - n * torch.outer(x_mean, x_mean)
        cross = self.cross - n * torch.outer(x_mean, y_mean)
        variance = self.squares - n * y_mean.square()
        penalty = _PENALTY * gram.diagonal().mean() + torch.finfo(gram.dtype).eps
        weights = torch.linalg.solve(gram + penalty * torch.eye(len(gram)).to(gram), cross)
        residual = variance - (2 * weights * cross - weights * (gram @ weights)).sum(0)
        r2 = 1 - residual.sum() / variance.sum().clamp_min(torch.finfo(gram.dtype).tiny)
        bias = y_mean - x_mean @ weights
        return Surrogate(layer, weights.T.contiguous().float(), bias.float(), float(r2))
