"""The linear head of a feature map: what it computes, and whether it is the model's (eqs. 4, 5)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from captum_kmex.grids import axes_of, grid_text, over_grid
from captum_kmex.model.hooks import coarser
from captum_kmex.model.layout import CONVOLUTIONS
from captum_kmex.scaling import unit_scale

__all__ = [
    "HeadSite",
    "Kind",
    "LinearHead",
    "is_close",
    "linear_head",
    "own_head",
    "weights",
]

Kind = Literal["pooled", "flatten", "convolution"]


@dataclass(frozen=True)
class LinearHead:
    """Columns and biases with ``logit_j = b_j + mean_p <h_p, c_j>`` (eq. 5).

    Attributes:
        columns: Float tensor (J, D), or ``(J, D, *grid)`` where the head has one a position.
        bias: Float tensor (J,), or (N, J) where further inputs have a part in it.
        rectified: The head is a 1x1 convolution followed by ReLU and pooling, so that
            ``logit_j = mean_p max(0, <h_p, c_j> + b_j)``; its bias stands inside the ReLU.
    """

    columns: Tensor
    bias: Tensor
    rectified: bool = False

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (N, J) that the head gives the map ``(N, D, *grid)``."""
        if self.rectified:
            scores = torch.einsum("nd...,jd->nj...", features, self.columns)
            return (scores + over_grid(self.bias, features[0])).relu().mean(axes_of(features))
        if self.columns.ndim == 2:
            return features.mean(axes_of(features)) @ self.columns.T + self.bias
        return features.flatten(1) @ self.columns.flatten(1).T / features[0, 0].numel() + self.bias

    def misses(self, features: Tensor, logits: Tensor, dtype: torch.dtype) -> Tensor:
        """Return whether each image's logits (N,) are others than those of ``logits``.

        They are the same up to 1e-4 of what the map adds to any of the image's logits, and to
        rounding of the sums they are made of.

        Args:
            features: Float tensor ``(N, D, *grid)``.
            logits: Float tensor (N, J), the model's.
            dtype: The coarsest floating-point type that the model computes in.
        """
        if logits.shape[1] != self.bias.shape[-1]:
            return torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        rounding = 8 * resolution(dtype, features)
        scale = (logits - self.bias).abs().amax(1, keepdim=True)
        spread = self._spread(features) + self.bias.abs()
        allowed = max(1e-4, rounding) * scale + rounding * spread
        return ~((self.logits(features) - logits).abs() <= allowed).all(1)

    def _spread(self, features: Tensor) -> Tensor:
        """Return the root of the sum of squared terms of each logit (N, J)."""
        columns, size = self.columns.flatten(1), unit_scale(features)
        scaled = features * size  # whose squares neither overflow nor vanish
        if self.rectified:
            rows = scaled.square().mean(axes_of(features))
        elif self.columns.ndim == 2:
            rows = scaled.mean(axes_of(features)).square()
        else:
            rows = scaled.flatten(1).square() / features[0, 0].numel() ** 2
        weight = unit_scale(columns)
        return (rows @ (columns * weight).square().T).sqrt() / (size.flatten(1) * weight.T)

    def evidence(self, features: Tensor, target: Tensor) -> Tensor:
        """Return the position-wise evidence ``(N, 1, *grid)``; its mean is logit minus bias."""
        products = self._products(features, target)
        if self.rectified:
            return (products + over_grid(self.bias[target], products)).relu()
        return products

    def alignment(self, features: Tensor, target: Tensor) -> Tensor:
        """Return ``<h_p, c_j> / |c_j|^2`` ``(N, 1, *grid)``: 1 where the map is c_j (eq. 11)."""
        own, scale = self.columns[target], unit_scale(self.columns[target])
        columns = own * scale  # whose squares neither overflow nor vanish
        norms = over_grid(columns.square().sum(1, keepdim=True), features)
        tiny = torch.finfo(norms.dtype).tiny
        products = _column_products(features, columns)
        return products / norms.clamp_min(tiny) * over_grid(scale, features)

    def left_out_bias(self, target: Tensor) -> Tensor:
        """Return the bias (N,) that the evidence leaves out."""
        if self.bias.ndim == 2:
            return self.bias.gather(1, target.unsqueeze(1)).squeeze(1)
        return torch.zeros_like(self.bias[target]) if self.rectified else self.bias[target]

    def left_over(self, target: Tensor) -> None:
        """Return ``None``: map and bias are the whole logit."""

    def contributions(self, features: Tensor, target: Tensor) -> Tensor:
        """Return the evidence by channel ``(N, D, *grid)``, in logit units."""
        columns = over_grid(self.columns[target], features)
        scale = features[0, 0].numel()
        if self.rectified:  # an open gate passes <h_p, c_j>, a closed one nothing
            columns = columns * (self.evidence(features, target) > 0)
        return features * columns / scale

    def _products(self, features: Tensor, target: Tensor) -> Tensor:
        return _column_products(features, self.columns[target])


def _column_products(features: Tensor, columns: Tensor) -> Tensor:
    """Return ``<h_p, c>`` ``(N, 1, *grid)`` of each image's own column, or one a position."""
    if columns.ndim > 2:
        return (features * columns).sum(1, keepdim=True)
    products = torch.matmul(columns.unsqueeze(1), features.flatten(2))
    return products.view(features.shape[0], 1, *features.shape[2:])


@dataclass(frozen=True)
class HeadSite:
    """Where the tap and the head stand in a model; names only, so that it can be pickled.

    Attributes:
        tap: Module whose output, after ReLU if ``relu``, is the feature map before pooling.
        relu: A functional ReLU follows the tap's module (DenseNet).
        linear: Name of the linear layer or 1x1 convolution.
        kind: Pooled linear, flattened linear, or a convolution pooled afterwards.
        rectified: The convolution is followed by ReLU (SqueezeNet).
        shape: Channels and grid of the map when it was found; a flattened head is tied to them.
        size: Size of the input when it was found.
    """

    tap: str
    relu: bool
    linear: str
    kind: Kind
    rectified: bool
    shape: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def at_input(self) -> bool:
        """The map is never what the tap's module gets."""
        return False

    def features(self, tap: Tensor) -> Tensor:
        """Return the feature map ``(N, D, *grid)`` from the tap module's map."""
        return tap.relu() if self.relu else tap

    def read(self, model: nn.Module, features: Tensor) -> LinearHead:
        """Return the head with the model's present weights, as wide as ``features``."""
        return linear_head(
            model.get_submodule(self.linear), features, self.kind == "flatten", self.rectified
        )

    def columns(self, model: nn.Module) -> Tensor:
        """Return the columns (J, D), or ``(J, D, *grid)`` at the size at which it was found."""
        weight = weights(model.get_submodule(self.linear))[0].detach()
        if self.kind != "flatten":
            return weight.flatten(1)
        return weight.reshape(-1, *self.shape) * math.prod(self.shape[1:])

    def may_have_moved(self, tap: Tensor, size: tuple[int, ...]) -> bool:
        """Whether the tap was chosen among maps that only that input's size made alike.

        On a single cell pooling changes nothing, so its output is as good as its input.
        """
        is_cell = math.prod(self.shape[1:]) == 1 or tap[0, 0].numel() == 1
        return is_cell and size != self.size


def linear_head(
    module: nn.Module, features: Tensor, flatten: bool = False, rectified: bool = False
) -> LinearHead:
    """Read a linear layer or 1x1 convolution as the head of a feature map ``(N, D, *grid)``.

    Raises:
        ValueError: The layer's width is not the map's.
    """
    weight, bias = weights(module)
    weight = weight.detach().to(features)
    offset = weight.new_zeros(len(weight)) if bias is None else bias.detach().to(features)
    depth, *grid = features.shape[1:]
    positions = math.prod(grid)
    if weight[0].numel() != (depth * positions if flatten else depth):
        raise ValueError(
            f"the head reads {weight[0].numel()} features, the map before it has {depth} "
            f"channels on {grid_text(grid)} positions; pass the head that belongs to this layer"
        )
    columns = weight.flatten(1)
    if flatten:
        columns = weight.reshape(-1, depth, *grid) * positions
    return LinearHead(columns, offset, rectified)


def weights(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a linear layer or convolution.

    Raises:
        TypeError: It is neither.
    """
    if not isinstance(module, (nn.Linear, *CONVOLUTIONS)):
        raise TypeError(f"a head is a Linear or 1x1 Conv2d; got {type(module).__name__}")
    return module.weight, module.bias


def own_head(module: nn.Module, features: Tensor, logits: Tensor) -> LinearHead:
    """Read a linear layer of the user's own as the head of a feature map ``(N, D, *grid)``.

    Raises:
        ValueError: Its width is not the map's, it has not one output a logit, or it returns
            something else than its weights say.
    """
    head = linear_head(module, features)
    if len(head.columns) != logits.shape[1]:
        raise ValueError(
            f"the head gives {len(head.columns)} logits, the model {logits.shape[1]}; pass a "
            "head with one output a logit"
        )
    with torch.no_grad():
        if _own_head_misses(module, head, features):
            raise ValueError(
                f"the given head ({type(module).__name__}) does not compute weight @ features "
                "+ bias, so its weights are no prototypes; pass a plain nn.Linear"
            )
    return head


def _own_head_misses(module: nn.Module, head: LinearHead, features: Tensor) -> bool:
    """Whether a linear layer of the user's returns something else than its weights say."""
    parameter = next(module.parameters())
    pooled = features.mean(axes_of(features), keepdim=True).to(parameter)
    found = module(pooled.flatten(1) if isinstance(module, nn.Linear) else pooled)
    found = found.detach().to(features).flatten(1)
    dtype = coarser(parameter.dtype, features.dtype)
    return bool(head.misses(features, found, dtype).any())


def resolution(dtype: torch.dtype, like: Tensor) -> float:
    """Return the relative rounding of sums and products in a dtype, on the device of ``like``."""
    eps = torch.finfo(dtype).eps
    if like.is_cuda and torch.backends.cuda.matmul.allow_tf32:
        return max(eps, 5e-4)  # ten bits of mantissa
    return eps


def is_close(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    """Compare to a small part of the largest value, no finer than the model's own dtype."""
    if ours.shape != theirs.shape:
        return False
    tolerance = max(2e-4, 8 * resolution(dtype, ours))
    scale = theirs.abs().max().clamp_min(torch.finfo(theirs.dtype).tiny)
    return bool((ours - theirs).abs().max() <= tolerance * scale)
