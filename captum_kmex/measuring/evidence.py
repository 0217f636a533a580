"""Evidence of a batch that is measured: parts are removed image by image, and explained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_kmex.arguments.measured import Measured
from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.explaining.evidence import Question
from captum_kmex.explaining.explainer import Explainer
from captum_kmex.explaining.segmentation import Segmentation
from captum_kmex.explaining.segmenters import Competition
from captum_kmex.measuring.account import ImageAccount
from captum_kmex.measuring.kernel import FeatureKernel
from captum_kmex.measuring.minimal import Minimal, minimal_segments
from captum_kmex.measuring.one_image import OneImage, stages
from captum_kmex.measuring.places import cuts
from captum_kmex.measuring.prior import allocated_maps
from captum_kmex.measuring.removal import Remover
from captum_kmex.model.cut import Cut
from captum_kmex.model.reading import Source, plain_arithmetic

__all__ = ["MeasuredEvidence", "Measuring"]

# tuned on validation pictures alone: see docs/measured.md
_LIKENESS = 0.8
_REACH = 0.3
_OWN = 0.01


@dataclass(frozen=True, eq=False)
class MeasuredEvidence:
    """Evidence of a batch for one question, measured.

    Attributes:
        density: Maps (N, 1, H, W), each of whose mean is output minus baseline.
        segments: The segments of the ledger.
        accounts: What was found of each image, by segments in the order of their numbers.
        minimal: The fewest segments of each image that keep its class, and that change it; none
            if that was not asked for.
    """

    density: Tensor
    segments: Segmentation
    accounts: tuple[ImageAccount, ...]
    minimal: tuple[Minimal, ...]

    @property
    def baseline(self) -> Tensor:
        """What the model gives each image with everything removed (N,)."""
        return torch.stack([account.baseline for account in self.accounts]).to(self.density)

    def delta(self, maps: Tensor, output: Tensor) -> Tensor:
        """Return what maps miss (N,): their sum plus baseline minus the model's output (N,)."""
        return maps.flatten(1).sum(1) + self.baseline - output


@dataclass(frozen=True, eq=False)
class Measuring:
    """Measures a batch, image by image: each has the same evidence whatever batch it is in.

    Attributes:
        explainer: The batch, read once.
        source: The model.
        inputs: The images (N, C, H, W), and further tensors that it takes.
        args: Further positional arguments of the model.
        options: How.
    """

    explainer: Explainer
    source: Source
    inputs: tuple[Tensor, ...]
    args: tuple[object, ...]
    options: Measured

    def __call__(
        self,
        questions: Sequence[Question],
        depth: int,
        competition: Competition,
        *,
        minimal: bool = False,
    ) -> list[MeasuredEvidence]:
        """Measure the evidence for some questions, in the same passes.

        Args:
            questions: What is explained, each in logit units.
            depth: Place of the shallowest layer.
            competition: Who makes the segments.
            minimal: Find also the fewest segments that keep the class, and that change it, which
                takes some passes a question.

        Raises:
            ValueError: Other units, segments from outside, or a layer that cannot be a cut.
        """
        _check(questions, competition)
        explainer, options = self.explainer, self.options
        cut_of = self._cuts(explainer.reading.layers[depth:])
        images = explainer.stack.blocks[0]
        with plain_arithmetic(images):
            priors, segments = allocated_maps(explainer, questions, depth, competition)
        labels, stack = segments.labels.cpu(), explainer.stack.suffix(depth)
        removals = [stages(of_image, options.passes) for of_image in labels]
        found = []
        with self._progress(sum(len(removal[-1]) for removal in removals)) as bar:
            for i, removal in enumerate(removals):
                remover = Remover(cut_of(i), options, bar.update)
                image = OneImage(remover, removal, _kernel(stack, i))
                asked = [question.repeated(i, 1, images.device) for question in questions]
                allocated = [prior[i].flatten().cpu().double() for prior in priors]
                found.append(_answers(image, asked, allocated, labels[i] if minimal else None))
        return [_gathered(segments, images, of_one) for of_one in zip(*found, strict=True)]

    def _cuts(self, layers: Sequence[str]) -> Callable[[int], list[Cut]]:
        reading, places = self.explainer.reading, self.options.places
        return cuts(self.source, self.inputs, self.args, reading, places, layers)

    def _progress(self, coalitions: int) -> tqdm[NoReturn]:
        ways = len(self.options.places or [None]) * len(self.options.fills)
        return tqdm(
            total=coalitions * ways, desc="removing parts", disable=not self.options.show_progress
        )


def _answers(
    image: OneImage,
    questions: Sequence[Question],
    allocated: Sequence[Tensor],
    labels: Tensor | None,
) -> list[tuple[ImageAccount, Minimal | None]]:
    """Return the account of an image for each question, and given labels its minimal segments."""
    accounts, whole = image.accounts(questions, allocated)
    run = image.remover.first
    return [
        (
            account,
            None
            if labels is None
            else minimal_segments(labels, account.sums, question, whole, run),
        )
        for question, account in zip(questions, accounts, strict=True)
    ]


def _gathered(
    segments: Segmentation,
    images: Tensor,
    answers: Sequence[tuple[ImageAccount, Minimal | None]],
) -> MeasuredEvidence:
    """Return the evidence of a batch for one question from what was found of its images."""
    labels = segments.labels
    accounts = tuple(account for account, _ in answers)
    maps = torch.stack([account.evidence for account in accounts]) * labels[0].numel()
    density = maps.view(len(labels), 1, *labels.shape[1:]).to(images)
    fewest = tuple(minimal for _, minimal in answers if minimal is not None)
    return MeasuredEvidence(density, segments, accounts, fewest)


def _check(questions: Sequence[Question], competition: Competition) -> None:
    if any(question.units != "logit" for question in questions):
        raise ValueError("evidence='measured' needs units='logit'")
    if competition.given is not None:
        raise ValueError(
            "evidence='measured' removes segments of its own; leave segments= out, or pass them "
            "as feature_mask to Captum's FeatureAblation"
        )


def _kernel(stack: StackedBlocks, image: int) -> FeatureKernel:
    """Return the kernel of the network's own features of an image."""
    cells = torch.arange(math.prod(stack.grid), device=stack.blocks[0].device)
    with plain_arithmetic(stack.blocks[0]):
        rows = stack.rows(torch.full_like(cells, image), cells).cpu()
    return FeatureKernel.of(rows, stack.grid, _LIKENESS, _REACH, _OWN)
