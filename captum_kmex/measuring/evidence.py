"""Evidence of a batch that is measured: parts are removed image by image, and explained."""

from __future__ import annotations

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
from captum_kmex.measuring.account import ImageAccount, image_account
from captum_kmex.measuring.kernel import FeatureKernel
from captum_kmex.measuring.minimal import Minimal, minimal_segments
from captum_kmex.measuring.parts import Coalitions, coalitions, patches
from captum_kmex.measuring.places import cuts
from captum_kmex.measuring.posterior import Design
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
        removals = [_coalitions(of_image, options) for of_image in labels]
        found: list[tuple[list[ImageAccount], list[Minimal]]] = [([], []) for _ in questions]
        with self._progress(sum(map(len, removals))) as bar:
            for i, removal in enumerate(removals):
                remover = Remover(cut_of(i), options, bar.update)
                logits, design = remover(removal.kept), _design(stack, i, removal)
                for question, prior, (accounts, fewest) in zip(
                    questions, priors, found, strict=True
                ):
                    asked = question.repeated(i, len(removal), logits.device)
                    allocated = prior[i].flatten().cpu().double()
                    account = image_account(removal, asked, logits, design, allocated)
                    accounts.append(account)
                    if minimal:
                        sums, whole = removal.segment_sums(account.evidence), logits[0, 1:2]
                        fewest.append(
                            minimal_segments(labels[i], sums, asked, whole, remover.first)
                        )
        return [_gathered(segments, images, *of_one) for of_one in found]

    def _cuts(self, layers: Sequence[str]) -> Callable[[int], list[Cut]]:
        reading, places = self.explainer.reading, self.options.places
        return cuts(self.source, self.inputs, self.args, reading, places, layers)

    def _progress(self, coalitions: int) -> tqdm[NoReturn]:
        ways = len(self.options.places or [None]) * len(self.options.fills)
        return tqdm(
            total=coalitions * ways, desc="removing parts", disable=not self.options.show_progress
        )


def _gathered(
    segments: Segmentation,
    images: Tensor,
    accounts: Sequence[ImageAccount],
    fewest: Sequence[Minimal],
) -> MeasuredEvidence:
    """Return the evidence of a batch for one question from the accounts of its images."""
    labels = segments.labels
    maps = torch.stack([account.evidence for account in accounts]) * labels[0].numel()
    density = maps.view(len(labels), 1, *labels.shape[1:]).to(images)
    return MeasuredEvidence(density, segments, tuple(accounts), tuple(fewest))


def _check(questions: Sequence[Question], competition: Competition) -> None:
    if any(question.units != "logit" for question in questions):
        raise ValueError("evidence='measured' needs units='logit'")
    if competition.given is not None:
        raise ValueError(
            "evidence='measured' removes segments of its own; leave segments= out, or pass them "
            "as feature_mask to Captum's FeatureAblation"
        )


def _coalitions(labels: Tensor, options: Measured) -> Coalitions:
    """Return what is kept of an image whose segments are these (*grid)."""
    partitions = [labels, patches(labels.shape)]
    if options.passes == "full":
        partitions.append(patches(labels.shape, is_shifted=True))
    return coalitions(partitions)


def _design(stack: StackedBlocks, image: int, removal: Coalitions) -> Design:
    """Return what was measured, with the kernel of the network's own features."""
    cells = torch.arange(removal.kept[0].numel(), device=stack.blocks[0].device)
    with plain_arithmetic(stack.blocks[0]):
        rows = stack.rows(torch.full_like(cells, image), cells).cpu()
    kernel = FeatureKernel.of(rows, removal.kept.shape[1:], _LIKENESS, _REACH, _OWN)
    return Design(removal.kept[2:].flatten(1).double(), removal.kinds, kernel)
