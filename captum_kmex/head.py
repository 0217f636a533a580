"""Find and verify the tap (last feature map) and the linear head (eqs. 4, 5, 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from captum_kmex.activations import Call, Trace
from captum_kmex.exceptions import HeadNotFoundError
from captum_kmex.grids import feature_grid
from captum_kmex.scaling import unit_scale

__all__ = ["HeadSite", "LinearHead", "find_head"]

Kind = Literal["pooled", "flatten", "convolution"]


@dataclass(frozen=True)
class LinearHead:
    """Columns and biases with ``logit_j = b_j + mean_p <h_p, c_j>`` (eq. 5).

    Attributes:
        columns: Float tensor (J, D), or (J, D, H, W) where the head has one column a position.
        bias: Float tensor (J,).
        rectified: The head is a 1x1 convolution followed by ReLU and pooling, so that
            ``logit_j = mean_p max(0, <h_p, c_j> + b_j)``; its bias stands inside the ReLU.
    """

    columns: Tensor
    bias: Tensor
    rectified: bool = False

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (N, J) that the head gives the map (N, D, H, W)."""
        if self.rectified:
            scores = torch.einsum("ndhw,jd->njhw", features, self.columns)
            return (scores + self.bias[:, None, None]).relu().mean((2, 3))
        if self.columns.ndim == 2:
            return features.mean((2, 3)) @ self.columns.T + self.bias
        return features.flatten(1) @ self.columns.flatten(1).T / features[0, 0].numel() + self.bias

    def evidence(self, features: Tensor, target: Tensor) -> Tensor:
        """Return the position-wise evidence (N, 1, H, W); its mean is logit minus bias."""
        products = self._products(features, target)
        if self.rectified:
            return (products + self.bias[target][:, None, None, None]).relu()
        return products

    def alignment(self, features: Tensor, target: Tensor) -> Tensor:
        """Return ``<h_p, c_j> / |c_j|^2`` (N, 1, H, W): 1 where the map equals c_j (eq. 11)."""
        own, scale = self.columns[target], unit_scale(self.columns[target])
        columns = own * scale  # whose squares neither overflow nor vanish
        norms = columns.square().sum(1, keepdim=True)
        norms = norms[..., None, None] if norms.ndim == 2 else norms
        tiny = torch.finfo(norms.dtype).tiny
        products = _column_products(features, columns)
        return products / norms.clamp_min(tiny) * scale.view(-1, 1, 1, 1)

    def left_out_bias(self, target: Tensor) -> Tensor:
        """Return the bias (N,) that the evidence leaves out."""
        return torch.zeros_like(self.bias[target]) if self.rectified else self.bias[target]

    def contributions(self, features: Tensor, target: Tensor) -> Tensor:
        """Return the evidence by channel (N, D, H, W), in logit units."""
        columns = self.columns[target]
        columns = columns[:, :, None, None] if columns.ndim == 2 else columns
        scale = features[0, 0].numel()
        if self.rectified:  # an open gate passes <h_p, c_j>, a closed one nothing
            columns = columns * (self.evidence(features, target) > 0)
        return features * columns / scale

    def _products(self, features: Tensor, target: Tensor) -> Tensor:
        return _column_products(features, self.columns[target])


def _column_products(features: Tensor, columns: Tensor) -> Tensor:
    """Return ``<h_p, c>`` (N, 1, H, W) of each image's own column (N, D) or (N, D, H, W)."""
    if columns.ndim == 4:
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
        shape: Channels, height and width of the map when it was found; a flattened head is
            tied to them.
    """

    tap: str
    relu: bool
    linear: str
    kind: Kind
    rectified: bool
    shape: tuple[int, int, int]

    def features(self, tap: Tensor) -> Tensor:
        """Return the feature map (N, D, H, W) from the tap module's output."""
        return tap.relu() if self.relu else tap

    def read(self, model: nn.Module, features: Tensor) -> LinearHead:
        """Return the head with the model's present weights, as wide as ``features``."""
        return linear_head(
            model.get_submodule(self.linear), features, self.kind == "flatten", self.rectified
        )


def linear_head(
    module: nn.Module, features: Tensor, flatten: bool = False, rectified: bool = False
) -> LinearHead:
    """Read a linear layer or 1x1 convolution as the head of a feature map (N, D, H, W).

    Raises:
        ValueError: The layer's width is not the map's.
    """
    weight, bias = _weights(module)
    weight = weight.detach().to(features)
    offset = weight.new_zeros(len(weight)) if bias is None else bias.detach().to(features)
    depth, height, width = features.shape[1:]
    positions = height * width
    if weight[0].numel() != (depth * positions if flatten else depth):
        raise ValueError(
            f"the head reads {weight[0].numel()} features, the map before it has {depth} "
            f"channels on {height}x{width} positions; pass the head that belongs to this layer"
        )
    if flatten:
        columns = weight.reshape(-1, depth, height, width) * positions
    else:
        columns = weight.reshape(-1, depth)
    return LinearHead(columns, offset, rectified)


def _weights(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    if not isinstance(module, (nn.Linear, nn.Conv2d)):
        raise TypeError(f"a head is a Linear or 1x1 Conv2d; got {type(module).__name__}")
    return module.weight, module.bias


def is_close(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    """Compare to a small part of the largest value, no finer than the model's own dtype."""
    tolerance = max(2e-4, 8 * torch.finfo(dtype).eps)
    if ours.is_cuda and torch.backends.cuda.matmul.allow_tf32:
        tolerance = max(tolerance, 4e-3)  # ten bits of mantissa
    if ours.shape != theirs.shape:
        return False
    scale = theirs.abs().max().clamp_min(torch.finfo(theirs.dtype).tiny)
    return bool((ours - theirs).abs().max() <= tolerance * scale)


def find_head(trace: Trace, input_size: tuple[int, int], linear: str | None = None) -> HeadSite:
    """Find the map and the linear layer that give the logits, and verify that they do.

    Args:
        trace: A forward pass recorded with ``tail``.
        input_size: Height and width of the images.
        linear: Take this module as the head, whatever the model does with its output.

    Raises:
        HeadNotFoundError: The logits are not affine in one feature map; says what was found.
    """
    dtype = trace.dtype
    index = _head_index(trace, linear)
    head = trace.calls[index]
    if head.input is None or head.output is None:
        raise HeadNotFoundError(f"the head {head.name!r} got or returned no tensor")
    before = trace.calls[:index]
    rectified = _pooled_after(head, trace.logits, dtype)
    if rectified or (rectified is not None and head.input[0, 0].numel() > 1):
        found = _search(before, input_size, head.input, "convolution", dtype)
        if found is not None:
            name, relu, shape = found
            return HeadSite(name, relu, head.name, "convolution", bool(rectified), shape)
    embedding = head.input.flatten(1)
    kinds: tuple[Kind, ...] = ("pooled", "flatten")
    for kind in kinds:
        found = _search(before, input_size, embedding, kind, dtype)
        if found is not None:
            name, relu, shape = found
            return HeadSite(name, relu, head.name, kind, False, shape)
    raise HeadNotFoundError(_refusal(head, before, embedding, dtype))


def _head_index(trace: Trace, linear: str | None) -> int:
    dtype = trace.dtype
    candidates = [
        i
        for i, call in enumerate(trace.calls)
        if isinstance(call.module, nn.Linear)
        or (isinstance(call.module, nn.Conv2d) and call.module.kernel_size == (1, 1))
    ]
    if linear is not None:
        named = [i for i in candidates if trace.calls[i].name == linear]
        if not named:
            raise HeadNotFoundError(
                f"head {linear!r} is not a Linear or 1x1 Conv2d among the last modules that ran"
            )
        return named[-1]
    for i in reversed(candidates):
        output = trace.calls[i].output
        if output is None or output.shape[1] != trace.logits.shape[1]:
            continue
        is_output = output.numel() == trace.logits.numel()
        if is_output and is_close(output.flatten(1), trace.logits, dtype):
            return i
        if _pooled_after(trace.calls[i], trace.logits, dtype) is not None:
            return i
    last = repr(trace.calls[candidates[-1]].name) if candidates else "none"
    raise HeadNotFoundError(
        "the model's output is not the output of a linear layer (the last one that ran: "
        f"{last}); return logits, without softmax or scaling"
    )


def _pooled_after(head: Call, logits: Tensor, dtype: torch.dtype) -> bool | None:
    """Whether a ReLU stands between a convolutional head and its pooling; None if not such."""
    if not isinstance(head.module, nn.Conv2d) or head.output is None or head.output.ndim != 4:
        return None
    if is_close(head.output.mean((2, 3)), logits, dtype):
        return False
    return True if is_close(head.output.relu().mean((2, 3)), logits, dtype) else None


def _search(
    calls: Sequence[Call], size: tuple[int, int], wanted: Tensor, kind: Kind, dtype: torch.dtype
) -> tuple[str, bool, tuple[int, int, int]] | None:
    """Return the module whose map gives what the head reads, whether ReLU follows, its shape."""
    best: tuple[str, bool, tuple[int, int, int]] | None = None
    positions = 0
    seen: set[str] = set()
    for i, call in reversed(list(enumerate(calls))):
        # a module that ran twice would be captured at its last call only
        grid = None if call.name in seen else _map(call, calls[:i], size)
        seen.add(call.name)
        if grid is None or grid[0, 0].numel() <= positions:
            continue
        for relu in (False, True):
            features = grid.relu() if relu else grid
            if is_close(_reduced(features, kind), wanted, dtype):
                _, depth, height, width = grid.shape
                best, positions = (call.name, relu, (depth, height, width)), height * width
                break
    return best


def _map(call: Call, earlier: Sequence[Call], size: tuple[int, int]) -> Tensor | None:
    """Return a call's output as a map, unless it is pooled or comes after the pooling."""
    if call.output is None or (_is_pooling(call) and not _is_spatial(call)):
        return None
    try:
        grid = feature_grid(call.output, size, call.name, call.module)
    except ValueError:
        return None
    pooled = grid[0, 0].numel() == 1 and any(_is_pooling(e) and not _is_spatial(e) for e in earlier)
    return None if pooled else grid


def _is_pooling(call: Call) -> bool:
    return "pool" in type(call.module).__name__.lower()


def _reduced(features: Tensor, kind: Kind) -> Tensor:
    if kind == "convolution":
        return features
    return features.mean((2, 3)) if kind == "pooled" else features.flatten(1)


def _refusal(head: Call, before: Sequence[Call], embedding: Tensor, dtype: torch.dtype) -> str:
    """Name what stands between the last feature map and the head."""
    spatial = [i for i, call in enumerate(before) if _is_spatial(call)]
    leaves = [
        call
        for call in before[spatial[-1] + 1 if spatial else 0 :]
        if not any(call.module.children())
    ]
    between = ", ".join(f"{type(call.module).__name__} {call.name!r}" for call in leaves)
    modules = [call.module for call in leaves]
    if any(_is_token(call.output, embedding, dtype) for call in before):
        reason = "it reads a class token, not a pooled map"
    elif any(isinstance(module, (nn.Linear, nn.Conv2d)) for module in modules):
        reason = f"an MLP stands between pooling and logits ({between})"
    elif any("norm" in type(module).__name__.lower() for module in modules):
        reason = f"a normalisation stands between pooling and the linear layer ({between})"
    else:
        reason = f"no module's map has its input as spatial mean (modules in between: {between})"
    return (
        f"the logits are not affine in a feature map: the head {head.name!r} was found, but "
        f"{reason}"
    )


def _is_spatial(call: Call) -> bool:
    return call.output is not None and call.output.ndim == 4 and call.output[0, 0].numel() > 1


def _is_token(output: Tensor | None, embedding: Tensor, dtype: torch.dtype) -> bool:
    return output is not None and output.ndim == 3 and is_close(output[:, 0], embedding, dtype)
