"""Evidence: the head's map of what is explained, carried down the layers, and its remainder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from captum_kmex.arguments.inputs import check_choice
from captum_kmex.arguments.targets import Target, resolve_target
from captum_kmex.composite.stack import StackedBlocks, resize_keeping_mean
from captum_kmex.explaining.segmentation import Segmentation
from captum_kmex.explaining.segments import segment_means
from captum_kmex.model.head import LinearHead

__all__ = [
    "carried_down",
    "contrast_targets",
    "explained_bias",
    "explained_output",
    "finish_map",
    "head_evidence",
]


def contrast_targets(
    target: Target, contrast: Target, logits: Tensor, units: str
) -> tuple[Tensor, Tensor | None]:
    """Resolve the explained class and the class it is contrasted with.

    Raises:
        TargetError: A malformed target.
        ValueError: A contrast in alignment units, which do not subtract, or of a single logit.
    """
    explained = resolve_target(target, logits)
    if contrast is None:
        return explained, None
    if logits.shape[1] == 1:
        raise ValueError(
            "contrast needs a second logit, the model has one: its map already tells class 1 "
            "(evidence above 0) from class 0 (below); leave contrast= out"
        )
    if units == "alignment":
        raise ValueError("contrast needs units='logit'; alignments of two classes do not subtract")
    return explained, resolve_target(contrast, logits, "contrast")


def head_evidence(
    head: LinearHead, tap: Tensor, target: Tensor, contrast: Tensor | None, units: str
) -> Tensor:
    """Return the head's map (N, 1, h, w) as a density: its mean is what the map sums to."""
    if units == "alignment":
        return head.alignment(tap, target)
    evidence = head.evidence(tap, target)
    return evidence if contrast is None else evidence - head.evidence(tap, contrast)


def carried_down(
    densities: Sequence[Tensor],
    stack: StackedBlocks,
    start: int,
    average_top: bool,
    segment: Callable[[int], Segmentation],
) -> Iterator[tuple[int, list[Tensor], Segmentation | None]]:
    """Carry densities from the deepest layer down: resize, average within segments, repeat.

    Args:
        densities: Maps of the head, float tensors (N, 1, h, w).
        stack: The layers.
        start: Place of the layer where this ends.
        average_top: Average within the segments of the deepest layer too.
        segment: Takes the place of a layer and returns the segments of the stack from there on.

    Yields:
        Each layer's place, the densities at its size, and the segments within which they are
        constant, or ``None``.
    """
    top = len(stack.blocks) - 1
    for depth in range(top, start - 1, -1):
        densities = [resize_keeping_mean(d, stack.suffix(depth).grid) for d in densities]
        found = None
        if depth < top or average_top:
            found = segment(depth)
            densities = [segment_means(d, found.labels, found.count) for d in densities]
        yield depth, densities, found


def explained_output(logits: Tensor, target: Tensor, contrast: Tensor | None) -> Tensor:
    """Return the logit of the target (N,), less that of the contrast."""
    value = logits.gather(1, target.unsqueeze(1)).squeeze(1)
    if contrast is None:
        return value
    return value - logits.gather(1, contrast.unsqueeze(1)).squeeze(1)


def explained_bias(head: LinearHead, target: Tensor, contrast: Tensor | None) -> Tensor:
    """Return the bias (N,) that the map leaves out, less that of the contrast."""
    bias = head.left_out_bias(target)
    return bias if contrast is None else bias - head.left_out_bias(contrast)


def finish_map(density: Tensor, images: Tensor, upsample: str | None, *, sums: bool) -> Tensor:
    """Bring a density to its final units and, if asked, to the input's shape.

    Args:
        density: Float tensor (N, 1, h, w).
        images: The input (N, C, H, W).
        upsample: ``"input"`` returns (N, C, H, W), each channel an equal part, so that the sum
            over channels is the map and the sum over everything is unchanged.
        sums: The map's sum is the meaning of the density's mean.
    """
    check_choice("upsample", upsample, (None, "input"))
    if upsample == "input":
        channels = images.shape[1]
        density = resize_keeping_mean(density, (images.shape[2], images.shape[3])) / channels
        density = density.expand(-1, channels, -1, -1)
    cells = density.shape[2] * density.shape[3]
    return (density / cells if sums else density).contiguous()
