"""Run the model with parts of one image removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_kmex.arguments.measured import Measured
from captum_kmex.measuring.fills import FILLS
from captum_kmex.model.cut import Cut

__all__ = ["Remover"]

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_AREA: Mapping[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


@dataclass(frozen=True, eq=False)
class Remover:
    """Runs the model on one image with parts removed.

    Attributes:
        cuts: The image, and where parts of it are removed: one place after the other.
        options: What stands in their place, and how many images a pass.
        advance: Called with the number of images after each pass.
    """

    cuts: Sequence[Cut]
    options: Measured
    advance: Callable[[int], object]

    def __call__(self, kept: Tensor) -> Tensor:
        """Return the logits for each place and fill, double tensor (F, M, J) on the CPU.

        Args:
            kept: Cells kept each time, boolean tensor ``(M, *grid)``, on any grid.
        """
        return torch.stack([self._run(kept, *way, self.advance) for way in self._ways])

    def skip(self, count: int) -> None:
        """Let the progress go on by so many that need not be run."""
        self.advance(count * len(self._ways))

    def first(self, kept: Tensor) -> Tensor:
        """Return the logits (M, J) for the first place and fill alone, which no progress counts."""
        return self._run(kept, *self._ways[0], lambda _: None)

    def _run(
        self, kept: Tensor, cut: Cut, blank: Tensor, advance: Callable[[int], object]
    ) -> Tensor:
        features, found = cut.features, []
        for some in kept.split(self.options.perturbations_per_eval):
            masks = _masks(some.to(features), features.shape[2:])
            found.append(cut.logits(torch.lerp(blank, features, masks)).cpu().double())
            advance(len(some))
        return torch.cat(found)

    @cached_property
    def _ways(self) -> list[tuple[Cut, Tensor]]:
        return [
            (cut, self._blank(fill, cut.features))
            for cut in self.cuts
            for fill in self.options.fills
        ]

    @staticmethod
    def _blank(fill: str | Tensor, features: Tensor) -> Tensor:
        if isinstance(fill, str):
            return FILLS[fill](features)
        try:
            return fill.to(features).expand_as(features)
        except RuntimeError:
            raise ValueError(
                f"baseline is {tuple(fill.shape)}, what is removed {tuple(features.shape)}: pass a "
                "tensor of that shape, or 'mean', 'blur' or 'zero'"
            ) from None


def _masks(kept: Tensor, size: torch.Size) -> Tensor:
    """Bring masks ``(M, *grid)`` to another grid ``(M, 1, *size)``: with soft edges, or by area."""
    masks, axes = kept.unsqueeze(1), len(size)
    if masks.shape[2:] == size:
        return masks
    if all(new >= old for new, old in zip(size, masks.shape[2:], strict=True)):
        return F.interpolate(masks, size, mode=_LINEAR[axes], align_corners=False)
    return _AREA[axes](masks, tuple(size))
