"""The tail of a model at some images, linearised: what stands in for a head that is not linear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_kmex.model.head import LinearHead

__all__ = ["Head", "LinearisedHead"]


@dataclass(frozen=True, eq=False)
class LinearisedHead:
    """The gradient of each logit by the map, at the images of one pass.

    ``logit_j = b_j + sum_p <h_p, d logit_j / d h_p> + r_j``, where b_j is the logit of an empty
    map and r_j what the linearisation leaves over: 0 where the tail is affine.

    Attributes:
        features: The map ``(N, D, *grid)``.
        leaf: The same as the module has it, a leaf of the tape.
        recorded: The logits (N, J), with the tape of the tail.
        to_grid: Brings a gradient of the leaf to a map ``(N, D, *grid)``.
        bias: The logits (J,) of an empty map; ``None`` where they are not the same for all images.
    """

    features: Tensor
    leaf: Tensor
    recorded: Tensor
    to_grid: Callable[[Tensor], Tensor]
    bias: Tensor | None = None

    def evidence(self, features: Tensor, target: Tensor) -> Tensor:
        """Return gradient times map ``(N, 1, *grid)``, as a density whose mean counts."""
        return (features * self._columns(target)).sum(1, keepdim=True)

    def alignment(self, features: Tensor, target: Tensor) -> Tensor:
        """Return ``<h_p, c_p> / |c_p|^2`` ``(N, 1, *grid)``, c_p the gradient at each position."""
        rows = torch.arange(len(target), device=target.device)
        head = LinearHead(self._columns(target), torch.zeros_like(rows, dtype=features.dtype))
        return head.alignment(features, rows)

    def contributions(self, features: Tensor, target: Tensor) -> Tensor:
        """Return the evidence by channel ``(N, D, *grid)``, in logit units."""
        return features * self._columns(target) / features[0, 0].numel()

    def left_out_bias(self, target: Tensor) -> Tensor:
        """Return the logit (N,) of an empty map, 0 where it is not known."""
        if self.bias is None:
            return self.features.new_zeros(len(target))
        return self.bias[target].to(self.features)

    def left_over(self, target: Tensor) -> Tensor:
        """Return what neither bias nor map account for (N,)."""
        logits = self.recorded.detach().to(self.features)
        logit = logits.gather(1, target.unsqueeze(1)).squeeze(1)
        evidence = self.evidence(self.features, target).flatten(1).mean(1)
        return logit - self.left_out_bias(target) - evidence

    def _columns(self, target: Tensor) -> Tensor:
        """Return the gradients ``(N, D, *grid)`` as columns, the mean of whose products counts."""
        with torch.inference_mode(False):
            chosen = self.recorded.gather(1, target.clone().unsqueeze(1)).sum()
            (gradient,) = torch.autograd.grad(chosen, self.leaf, retain_graph=True)
        columns = self.to_grid(gradient).to(self.features)
        return columns * self.features[0, 0].numel()


Head = LinearHead | LinearisedHead
