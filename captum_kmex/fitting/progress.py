"""What a checkpoint holds of a fit, and whether one of this fit can be like that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_kmex.bank.fields import check_codebook, check_widths, codebook_kinds
from captum_kmex.bank.tensor_kinds import TensorKind, check_tensors, part, scoped
from captum_kmex.data.digests import MARK_SIZE
from captum_kmex.fitting.fitted import Fitted
from captum_kmex.fitting.kept_patches import check_kept_patches, kept_patch_kinds
from captum_kmex.fitting.lloyd_pass import LloydPass
from captum_kmex.fitting.options import FitOptions
from captum_kmex.fitting.patch_pass import PatchPass
from captum_kmex.fitting.ridge import RidgeSums
from captum_kmex.fitting.rows import RowSource
from captum_kmex.fitting.sampling_pass import Collection
from captum_kmex.fitting.summary import Summary

__all__ = ["Outputs", "Progress", "ProgressCheck"]

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Progress:
    """What a checkpoint holds.

    Attributes:
        stage: The present pass over the data.
        position: Batches of it that are done.
        common: What the stages before found.
        collected: What the stage has collected.
        marks: Byte tensor (B, ``MARK_SIZE``), digests of the batches of the first pass.
    """

    stage: int
    position: int
    common: dict[str, Tensor]
    collected: dict[str, Tensor]
    marks: Tensor

    @classmethod
    def of(cls, stage: int, position: int, tensors: Mapping[str, Tensor]) -> Progress:
        """Take the tensors of a file apart.

        Raises:
            ValueError: One is unknown, or the digests are missing or none.
        """
        common, collected = part(tensors, "common."), part(tensors, "collected.")
        others = {
            name: tensor
            for name, tensor in tensors.items()
            if not name.startswith(("common.", "collected."))
        }
        check_tensors(others, {"marks": TensorKind(torch.uint8, ("batches", MARK_SIZE))}, {})
        return cls(stage, position, common, collected, others["marks"])

    def outputs(self) -> Outputs | None:
        """Return what the model gave; ``None`` where nothing was saved yet."""
        state = self.common or self.collected
        if not state:
            return None
        rows = {}
        for name, tensor in state.items():
            depth, _, kind = name.partition(".")
            if kind == "centroids" or kind.startswith("rows."):
                rows[int(depth)] = (tensor.shape[1], tensor.dtype)
        return Outputs(int(state["summary.n_logits"]), rows)


@dataclass(frozen=True)
class Outputs:
    """What a model gives a fit.

    Attributes:
        n_logits: Number of logits.
        rows: Width and dtype of the rows of the depths of which some are kept.
    """

    n_logits: int
    rows: Mapping[int, tuple[int, torch.dtype]]

    def fits(self, n_logits: int, sources: Sequence[RowSource]) -> bool:
        """Whether logits and rows of a batch are alike."""
        first = torch.zeros(1, dtype=torch.int64, device=sources[0].squared_norms.device)
        found = {d: sources[d].rows(first, first) for d in self.rows}
        kinds = {d: (rows.shape[1], rows.dtype) for d, rows in found.items()}
        return n_logits == self.n_logits and kinds == self.rows


@dataclass(frozen=True)
class ProgressCheck:
    """Compares a progress with what one of a fit can be.

    Attributes:
        options: Options of the fit.
        depths: Number of codebooks.
        is_weighted: Rows have masses.
        n_batches: Batches of a pass, if known.
    """

    options: FitOptions
    depths: int
    is_weighted: bool
    n_batches: int | None

    def __call__(self, progress: Progress) -> None:
        """Compare.

        Raises:
            ValueError: A tensor is missing, unknown, of another type or shape, or out of range,
                or two do not fit together.
        """
        self._check_place(progress)
        if not progress.position:
            check_tensors(progress.collected, {}, {})
        if not progress.stage:
            check_tensors(progress.common, {}, {})
        if progress.stage or progress.position:
            self._check_state(progress)

    def _check_place(self, progress: Progress) -> None:
        last = self.options.n_passes
        if progress.stage > last:
            raise ValueError(f"stage is {progress.stage}, of at most {last}")
        if self.n_batches is not None and progress.position > self.n_batches:
            raise ValueError(f"position is {progress.position}, of {self.n_batches} batches")
        n_marks = len(progress.marks)
        if n_marks < progress.position or (progress.stage == 0 and n_marks > progress.position):
            raise ValueError(f"marks are of {n_marks} batches, position is {progress.position}")

    def _check_state(self, progress: Progress) -> None:
        """Compare what was saved of a first pass, or after it."""
        saved = progress.common if progress.stage else progress.collected
        sizes: dict[str, object] = {"/depths": self.depths}
        summary = Summary()
        summary.check(part(saved, "summary."), sizes)
        summary.restore(part(saved, "summary."))
        sizes["/logits"] = summary.n_logits
        if progress.stage:
            self._check_found(progress, Fitted(summary, RidgeSums(), []), sizes)
        else:
            self._check_sample(saved, summary, sizes)
        if int(saved["ridge.count"]) not in (0, summary.n_images):
            raise ValueError("ridge.count is not the number of images")
        _check_widths(sizes, self.depths)

    def _check_sample(
        self, saved: Mapping[str, Tensor], summary: Summary, sizes: dict[str, object]
    ) -> None:
        """Compare what a first pass has collected."""
        groups, seen = 1 if self.options.labels is None else summary.n_classes, saved.get("0.seen")
        if seen is None or tuple(seen.shape) != (groups,):  # before tensors as large are made
            raise ValueError(f"0.seen is not of {groups} classes")
        expected = Collection(self.options, _CPU)
        expected.summary = summary
        expected.check(saved, sizes)
        if bool(saved["is_weighted"]) != self.is_weighted:
            raise ValueError("is_weighted is not the kind of the fit's sample")

    def _check_found(self, progress: Progress, expected: Fitted, sizes: dict[str, object]) -> None:
        """Compare the codebooks, and what a pass over the data has collected for them."""
        kinds = expected.kinds(progress.common)
        of_book = codebook_kinds(expected.summary.n_classes, self.options.labels is None)
        if self.options.keeps_places:
            of_book |= {f"near.{name}": kind for name, kind in kept_patch_kinds().items()}
        for depth in range(self.depths):
            kinds |= scoped(of_book, depth)
        check_tensors(progress.common, kinds, sizes)
        expected.check_values(progress.common)
        for depth in range(self.depths):
            check_codebook(progress.common, depth)
            if self.options.keeps_places:
                name = f"{depth}.near."
                check_kept_patches(part(progress.common, name), name)
        if progress.position:
            found = Fitted.of(progress.common, _CPU)
            books, n_classes = found.codebooks, found.summary.n_classes
            if progress.stage > self.options.refine:
                PatchPass(books, self.options).check(progress.collected, {})
            else:
                LloydPass(books, n_classes, self.options).check(progress.collected, {})


def _check_widths(sizes: Mapping[str, object], depths: int) -> None:
    """Raise ``ValueError`` unless rows shrink with depth, and are pooled from the deepest."""
    widths = [sizes.get(f"width {depth}") for depth in range(depths)]
    check_widths([width for width in widths if isinstance(width, int)])
    pooled = sizes.get("/pooled", widths[-1])
    if widths[-1] is not None and pooled != widths[-1]:
        raise ValueError(f"ridge.features is {pooled} wide, rows are {widths[-1]}")
