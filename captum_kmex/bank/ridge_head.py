"""A ridge surrogate of the logits, for models whose own head is not affine in a map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_kmex.model.head import LinearHead

__all__ = ["RidgeSums", "Surrogate"]

_PENALTY = 1e-3  # of the features' mean variance, an image


@dataclass(frozen=True)
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


class RidgeSums:
    """Sums from which the ridge regression of logits on features is solved in one pass.

    Reference:
        Hoerl & Kennard, ridge regression (1970).
    """

    def __init__(self) -> None:
        zeros = [torch.zeros((), dtype=torch.float64) for _ in range(6)]
        self._count, self._features, self._logits, self._gram, self._cross, self._squares = zeros

    def __bool__(self) -> bool:
        """Whether anything was taken in."""
        return self.count > 0

    @property
    def count(self) -> int:
        """Images taken in."""
        return int(self._count)

    def add(self, features: Tensor, logits: Tensor) -> None:
        """Take in pooled features (N, D) and logits (N, J); sums are kept in float64."""
        x, y = features.cpu().double(), logits.cpu().double()
        self._count = self._count + len(x)
        self._features = self._features + x.sum(0)
        self._logits = self._logits + y.sum(0)
        self._gram = self._gram + x.T @ x
        self._cross = self._cross + x.T @ y
        self._squares = self._squares + y.square().sum(0)

    def joined(self, other: RidgeSums) -> RidgeSums:
        """Return the sums of both together."""
        mine, theirs = self.state(), other.state()
        return RidgeSums.of({name: mine[name] + theirs[name] for name in mine})

    def state(self) -> dict[str, Tensor]:
        """Return the sums, to save and to read with ``of``."""
        return {name.removeprefix("_"): tensor for name, tensor in vars(self).items()}

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> RidgeSums:
        """Read saved sums."""
        sums = cls()
        vars(sums).update({f"_{name}": tensor for name, tensor in state.items()})
        return sums

    def solve(self, layer: str) -> Surrogate:
        """Return the surrogate of everything taken in."""
        n = self.count
        x_mean, y_mean = self._features / n, self._logits / n
        gram = self._gram - n * torch.outer(x_mean, x_mean)
        cross = self._cross - n * torch.outer(x_mean, y_mean)
        variance = self._squares - n * y_mean.square()
        penalty = _PENALTY * gram.diagonal().mean() + torch.finfo(gram.dtype).eps
        weights = torch.linalg.solve(gram + penalty * torch.eye(len(gram)).to(gram), cross)
        residual = variance - (2 * weights * cross - weights * (gram @ weights)).sum(0)
        r2 = 1 - residual.sum() / variance.sum().clamp_min(torch.finfo(gram.dtype).tiny)
        bias = y_mean - x_mean @ weights
        return Surrogate(layer, weights.T.contiguous().float(), bias.float(), float(r2))
