"""What is explained of each image, as a map of the head, a bias and an output."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_kmex.arguments.targets import Target, resolve_target
from captum_kmex.composite.resizing import resize_keeping_mean
from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.explaining.segmentation import Segmentation
from captum_kmex.explaining.segments import segment_means
from captum_kmex.grids import grid_of
from captum_kmex.model.linearised import Head

__all__ = ["DepthEvidence", "Question", "carried_down", "finish_map", "summed"]


@dataclass(frozen=True, eq=False)
class Question:
    """A logit of each image, or the difference of two: "why this class, and not that one".

    Attributes:
        target: Explained logit (N,).
        contrast: The one it is contrasted with (N,), or ``None``.
        units: ``"logit"``, or ``"alignment"`` with the head's column (eq. 11).
    """

    target: Tensor
    contrast: Tensor | None = None
    units: str = "logit"

    @classmethod
    def of(
        cls,
        target: Target,
        contrast: Target,
        logits: Tensor,
        units: str,
        names: tuple[str, str] = ("target", "contrast"),
    ) -> Question:
        """Resolve what the user asks; messages call target and contrast by these names.

        Raises:
            TargetError: A malformed target.
            ValueError: A contrast in alignment units, which do not subtract, or of a single
                logit.
        """
        explained = resolve_target(target, logits, names[0])
        if contrast is None:
            return cls(explained, None, units)
        if logits.shape[1] == 1:
            raise ValueError(
                "contrast needs a second logit, the model has one: its map already tells class 1 "
                "(evidence above 0) from class 0 (below); leave contrast= out"
            )
        if units == "alignment":
            raise ValueError(
                "contrast needs units='logit'; alignments of two classes do not subtract"
            )
        return cls(explained, resolve_target(contrast, logits, names[1]), units)

    def density(self, head: Head, tap: Tensor) -> Tensor:
        """Return the head's map ``(N, 1, *grid)`` as a density: its mean is the map's sum."""
        if self.units == "alignment":
            return head.alignment(tap, self.target)
        evidence = head.evidence(tap, self.target)
        return evidence if self.contrast is None else evidence - head.evidence(tap, self.contrast)

    def contributions(self, head: Head, tap: Tensor) -> Tensor:
        """Return the evidence by channel ``(N, D, *grid)``; it sums to what the map sums to.

        Raises:
            ValueError: Alignment units.
        """
        if self.units != "logit":
            raise ValueError("per_channel=True needs units='logit'")
        parts = head.contributions(tap, self.target)
        return parts if self.contrast is None else parts - head.contributions(tap, self.contrast)

    def output(self, logits: Tensor) -> Tensor:
        """Return the logit of the target (N,), less that of the contrast."""
        value = logits.gather(1, self.target.unsqueeze(1)).squeeze(1)
        if self.contrast is None:
            return value
        return value - logits.gather(1, self.contrast.unsqueeze(1)).squeeze(1)

    def probability(self, logits: Tensor) -> Tensor:
        """Return the target's probability (N,); next to the contrast's alone if there is one."""
        if self.contrast is not None or logits.shape[1] == 1:
            return self.output(logits).sigmoid()
        return logits.softmax(1).gather(1, self.target.unsqueeze(1)).squeeze(1)

    def repeated(self, image: int, count: int, device: torch.device) -> Question:
        """Return the question of one image, for several outputs of the model."""
        contrast = None if self.contrast is None else self.contrast[image].to(device).expand(count)
        return Question(self.target[image].to(device).expand(count), contrast, self.units)

    def bias(self, head: Head) -> Tensor:
        """Return the bias (N,) that the map leaves out, less that of the contrast."""
        bias = head.left_out_bias(self.target)
        return bias if self.contrast is None else bias - head.left_out_bias(self.contrast)

    def not_linear(self, head: Head) -> Tensor | None:
        """Return what a linearisation leaves over (N,); ``None`` of a head that is linear."""
        left = head.left_over(self.target)
        if left is None or self.contrast is None:
            return left
        other = head.left_over(self.contrast)
        return left if other is None else left - other

    def delta(self, maps: Tensor, head: Head, logits: Tensor) -> Tensor:
        """Return what maps in logit units miss (N,): their sum plus bias minus output.

        What a linearisation leaves over is no part of the map, and counts like the bias.
        """
        total, left = maps.flatten(1).sum(1) + self.bias(head), self.not_linear(head)
        return (total if left is None else total + left) - self.output(logits)


@dataclass(frozen=True, eq=False)
class DepthEvidence:
    """The evidence of some questions, carried down to one depth.

    Attributes:
        depth: Place of the shallowest layer.
        densities: A question, float tensor ``(N, 1, *grid)``; its mean is output minus bias.
        averaged: The segments within which they are constant; ``None`` at the deepest layer,
            where the head's map is used as it is.
    """

    depth: int
    densities: list[Tensor]
    averaged: Segmentation | None


def carried_down(
    densities: Sequence[Tensor],
    stack: StackedBlocks,
    last: int,
    average_top: bool,
    segment: Callable[[int], Segmentation],
) -> Iterator[DepthEvidence]:
    """Carry densities from the deepest layer down: resize, average within segments, repeat.

    Args:
        densities: Maps of the head, float tensors ``(N, 1, *grid)``.
        stack: The layers.
        last: Place of the layer where this ends.
        average_top: Average within the segments of the deepest layer too.
        segment: Takes the place of a layer and returns the segments of the stack from there on.
    """
    top = len(stack.blocks) - 1
    for depth in range(top, last - 1, -1):
        grid = stack.suffix(depth).grid
        densities = [resize_keeping_mean(density, grid) for density in densities]
        found = None
        if depth < top or average_top:
            found = segment(depth)
            densities = [segment_means(d, found.labels, found.count) for d in densities]
        yield DepthEvidence(depth, densities, found)


def finish_map(density: Tensor, images: Tensor, upsample: str | None, *, sums: bool) -> Tensor:
    """Bring a density to its final units and, if asked, to the input's shape.

    Args:
        density: Float tensor ``(N, 1, *grid)``.
        images: The input ``(N, C, *size)``.
        upsample: ``"input"`` returns the input's shape, each channel an equal part, so that the
            sum over channels is the map and the sum over everything is unchanged.
        sums: The map's sum is the meaning of the density's mean.
    """
    if upsample == "input":
        channels = images.shape[1]
        density = resize_keeping_mean(density, grid_of(images)) / channels
        density = density.expand(-1, channels, *grid_of(images))
    return (summed(density) if sums else density).contiguous()


def summed(density: Tensor) -> Tensor:
    """Return a density ``(N, 1, *grid)``, whose mean counts, as a map whose sum is that mean."""
    return density / math.prod(grid_of(density))
