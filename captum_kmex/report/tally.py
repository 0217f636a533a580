"""What is counted over all images of a report, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, max_pool2d, pad

from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.classes import class_logits
from captum_kmex.report.evidence import BatchEvidence
from captum_kmex.report.samples import Samples

__all__ = ["Tally", "Verdicts", "blank_cells"]

_NEIGHBOURHOOD = 16  # of the shorter side, half of what is looked at around a pixel
_BLANK = 0.02  # of a picture's range, that is no contrast
_MOSTLY = 0.9
_BEST = 6  # images kept of each prototype


@dataclass
class Verdicts:
    """What is said of every image.

    Attributes:
        label: Classes, -1 where unknown.
        prediction: The model's class.
        votes: The class of each depth's prototypes; empty without a fit.
        name: Names, empty where there is none.
        confidence: Probability of the model's class.
    """

    label: list[int]
    prediction: list[int]
    votes: list[list[int]]
    name: list[str]
    confidence: list[float]


def blank_cells(images: Tensor, grid: Sequence[int]) -> Tensor:
    """Return which cells of a grid lie where the picture has no contrast (N, h, w).

    Args:
        images: Float tensor (N, C, H, W).
        grid: Height and width h, w.
    """
    grey = images.detach().cpu().float().mean(1, keepdim=True)
    side = 2 * (min(grey.shape[2:]) // _NEIGHBOURHOOD) + 1
    around = pad(grey, [side // 2] * 4, "replicate")
    contrast = max_pool2d(around, side, 1) + max_pool2d(-around, side, 1)
    whole = grey.amax((2, 3), keepdim=True) - grey.amin((2, 3), keepdim=True)
    most = adaptive_max_pool2d(contrast, (grid[0], grid[1]))
    return (most <= _BLANK * whole).squeeze(1)


class Tally:
    """Counts of the prototypes' pixels, and every image's verdicts.

    Args:
        bank: The prototypes; ``None`` without a fit.
        n_classes: Number of classes J.

    Attributes:
        won: A depth, integer tensor (K, J): pixels that each prototype wins in images of each
            class, by label or, without one, by the model's prediction.
        n_images: A depth, integer tensor (K,): images in which it wins any.
        blank: A depth, integer tensor (K,): of the pixels it wins, those of blank ground.
        cells: Pixels of an image at each depth.
        best: A depth, where prototypes win most: shares of the image (K, 6) and images (K, 6),
            -1 where there are fewer.
        verdicts: What is said of each image.
        n_classes: J.
    """

    def __init__(self, bank: PrototypeBank | None, n_classes: int) -> None:
        books = () if bank is None else bank.codebooks
        sizes = [len(book.centroids) for book in books]
        self.won = [torch.zeros(k, n_classes, dtype=torch.int64) for k in sizes]
        self.n_images = [torch.zeros(k, dtype=torch.int64) for k in sizes]
        self.best = [(torch.zeros(k, _BEST), torch.full((k, _BEST), -1)) for k in sizes]
        self.blank = [torch.zeros(k, dtype=torch.int64) for k in sizes]
        self.cells = [0] * len(sizes)
        self.verdicts = Verdicts([], [], [[] for _ in sizes], [], [])
        self.n_classes = n_classes

    def add(self, found: BatchEvidence, samples: Samples) -> None:
        """Count a batch."""
        prediction, labels = found.prediction, samples.labels
        self.verdicts.name += samples.names
        self.verdicts.label += labels.tolist()
        self.verdicts.prediction += prediction.tolist()
        sure = class_logits(found.logits).double().softmax(1).amax(1)
        self.verdicts.confidence += [round(share, 4) for share in sure.tolist()]
        classes = torch.where(labels < 0, prediction, labels)
        for depth in range(len(self.won)):
            seen = found.depths[depth]
            if seen.vote is not None:
                self.verdicts.votes[depth] += seen.vote.tolist()
            nearest = seen.segments.flatten(1)
            blank = blank_cells(samples.inputs, seen.segments.shape[1:])
            self._count(depth, nearest, classes, samples.first)
            plain = nearest[blank.flatten(1)]
            self.blank[depth] += plain.bincount(minlength=len(self.blank[depth]))

    def is_blank(self, depth: int) -> Tensor:
        """Return which prototypes stand for blank ground (K,): most pixels they win lie there."""
        pixels = self.won[depth].sum(1)
        return (pixels > 0) & (self.blank[depth] >= _MOSTLY * pixels)

    def _count(self, depth: int, nearest: Tensor, classes: Tensor, first: int) -> None:
        count = len(self.n_images[depth])
        ones = torch.ones_like(nearest)
        areas = torch.zeros(len(nearest), count, dtype=torch.int64).scatter_add_(1, nearest, ones)
        self.won[depth].index_add_(1, classes, areas.T.contiguous())
        self.n_images[depth] += (areas > 0).sum(0)
        self.cells[depth] += nearest.numel()
        shares, images = self.best[depth]
        here = torch.arange(first, first + len(nearest)).expand(count, -1)
        all_shares = torch.cat([shares, areas.T / nearest.shape[1]], 1)
        top = all_shares.topk(_BEST, 1)
        images = torch.cat([images, here], 1).gather(1, top.indices)
        self.best[depth] = top.values, images.masked_fill(top.values == 0, -1)
