"""What measures that change pixels share: images, orders of pixels, answers of the network."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.quality.measure import Answers
from benchmarks.quality.task import Sample, Task

__all__ = ["logits", "n_perturbed", "n_steps", "perturbed_sample", "ranks", "target_logits"]

_HEAVY = 0.5  # of a mobile network's forward pass


def perturbed_sample(answers: Answers) -> Sample:
    """Return the images whose pixels are changed: the first ones, the same for every method."""
    return answers.explained.first(n_perturbed(answers))


def n_perturbed(answers: Answers) -> int:
    """Return how many images that are at most: the preset's, a quarter for a heavy network."""
    count = answers.preset.n_perturbed
    return count if answers.task.weight < _HEAVY else max(2, count // 4)


def n_steps(answers: Answers) -> int:
    """Return how many steps a curve has: the preset's, half as many for a heavy network."""
    steps = answers.preset.n_steps
    return steps if answers.task.weight < _HEAVY else max(2, steps // 2)


@torch.no_grad()
def logits(task: Task, images: Tensor, batch_size: int = 32) -> Tensor:
    """Return the network's logits (M, J) of images (M, C, H, W), on the CPU."""
    device = next(task.model.parameters()).device
    return torch.cat([task.model(x.to(device)).cpu() for x in images.split(batch_size)])


def target_logits(task: Task, images: Tensor, targets: Tensor) -> Tensor:
    """Return the logits of the targets (M,) alone, (M,), in double precision."""
    return logits(task, images).double().gather(1, targets[:, None])[:, 0]


def ranks(maps: Tensor, seed: int = 0) -> Tensor:
    """Return the place of each pixel in its image's order, 0 for the most relevant.

    Args:
        maps: Float tensor (N, H, W).
        seed: Decides among equal pixels; the draws do not depend on the maps.

    Returns:
        Integer tensor (N, H, W).

    Raises:
        ValueError: A map has NaN or infinite values.
    """
    if not maps.isfinite().all():
        raise ValueError("maps have NaN or infinite values, whose order is not defined")
    flat = maps.flatten(1)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(flat.shape, generator=generator).argsort(1)
    order = draws.gather(1, flat.gather(1, draws).argsort(dim=1, descending=True, stable=True))
    return order.argsort(1).view_as(maps)
