"""What a checkpoint holds of a fit, and whether one of this fit can be like that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from captum_kmex.bank.fields import check_codebook, check_widths, codebook_kinds, patch_kinds
from captum_kmex.bank.tensor_kinds import FLOAT, INTEGER, TensorKind, check_tensors
from captum_kmex.classes import class_count
from captum_kmex.data.digests import MARK_SIZE
from captum_kmex.fitting.rows import RowSource

__all__ = ["Progress", "ProgressCheck", "part"]

_WIDE = torch.float64


class Options(Protocol):
    """What the check needs of a fit's options."""

    @property
    def refine(self) -> int:
        """Passes between the first and the last."""

    @property
    def n_representatives(self) -> int:
        """Patches a prototype."""

    @property
    def labels(self) -> str | None:
        """``None`` for a class-agnostic fit."""


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries of a saved state whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


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
        return Outputs(int(state["summary.figures"][0]), rows)


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

    options: Options
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

    def _check_state(self, progress: Progress) -> None:
        """Compare what was saved of a first pass, or after it."""
        is_first, sizes = progress.stage == 0, dict[str, object]()
        state = progress.collected if is_first else progress.common
        n_logits = _check_summary(state, self.depths)
        n_classes = class_count(n_logits)
        kinds = _summary_kinds(self.depths) | _ridge_kinds(state, n_logits, self.depths)
        for depth in range(self.depths):
            kinds |= (
                self._sample_kinds(state, depth, n_classes)
                if is_first
                else codebook_kinds(depth, n_classes, self._is_agnostic)
            )
        check_tensors(state, kinds, sizes)
        self._check_figures(state)
        if is_first:
            self._check_capacities(state)
        else:
            self._check_books(progress, n_classes, sizes)
        widths = (sizes.get(f"width {depth}") for depth in range(self.depths))
        check_widths([width for width in widths if isinstance(width, int)])

    @property
    def _is_agnostic(self) -> bool:
        return self.options.labels is None

    def _check_place(self, progress: Progress) -> None:
        last = self.options.refine + (self.options.n_representatives > 0)
        if progress.stage > last:
            raise ValueError(f"stage is {progress.stage}, of at most {last}")
        if self.n_batches is not None and progress.position > self.n_batches:
            raise ValueError(f"position is {progress.position}, of {self.n_batches} batches")
        n_marks = len(progress.marks)
        if n_marks < progress.position or (progress.stage == 0 and n_marks > progress.position):
            raise ValueError(f"marks are of {n_marks} batches, position is {progress.position}")

    def _check_figures(self, summary: Mapping[str, Tensor]) -> None:
        """Compare the figures of the images with each other."""
        _, n_images, low, high, *weights = summary["summary.figures"].tolist()
        if low > high or min(weights) <= 0 or n_images != int(n_images) or n_images < 1:
            raise ValueError("summary.figures are none of images")
        if summary["ridge.count"].item() not in (0, n_images):
            raise ValueError("ridge.count is not the number of images")
        if summary["ridge.gram"].ndim and not _is_gram(summary["ridge.gram"]):
            raise ValueError("ridge.gram is no matrix of products")

    def _sample_kinds(
        self, state: Mapping[str, Tensor], depth: int, n_classes: int
    ) -> dict[str, TensorKind]:
        """Return what the tensors of a sample of rows must be."""
        groups = 1 if self._is_agnostic else n_classes
        limits = TensorKind(INTEGER, (groups,), 0)
        kinds = {
            "seen": limits,
            "kind": TensorKind(INTEGER, (2,), 0),
            "key_limits": limits,
            "ratio_limits": TensorKind(FLOAT, (groups,), 0, takes_infinity=True),
        }
        filled = {name.split(".")[-1] for name in state if name.startswith(f"{depth}.keys.")}
        for c in filled:
            if not (c.isdecimal() and c == str(int(c[:19])) and int(c) < groups):
                raise ValueError(f"{depth}.keys.{c[:20]} is of no class")
            count = f"rows of {c} at {depth}"
            rows = (count, f"width {depth}")
            kinds |= {
                f"rows.{c}": TensorKind(FLOAT, rows, alike=f"rows {depth}"),
                f"keys.{c}": TensorKind(INTEGER, (count,), 0),
                f"tags.{c}": TensorKind(INTEGER, (count,), 0, n_classes - 1),
                f"masses.{c}": TensorKind(FLOAT, (count,), 0, alike="masses"),
            }
        return {f"{depth}.{name}": kind for name, kind in kinds.items()}

    def _check_capacities(self, state: Mapping[str, Tensor]) -> None:
        for depth in range(self.depths):
            capacity, is_weighted = state[f"{depth}.kind"].tolist()
            if capacity < 1 or is_weighted != self.is_weighted:
                raise ValueError(f"{depth}.kind is no capacity and kind of the fit's sample")

    def _check_books(self, progress: Progress, n_classes: int, sizes: dict[str, object]) -> None:
        """Compare the codebooks, and what a pass over the data has collected for them."""
        for depth in range(self.depths):
            check_codebook(progress.common, depth)
        if not progress.position:
            return
        is_last = progress.stage > self.options.refine
        votes = n_classes if self._is_agnostic else 0
        kinds = {"n_images": TensorKind(INTEGER, (), 0)}
        sizes["patches"] = self.options.n_representatives
        for depth in range(self.depths):
            count, width = f"prototypes {depth}", f"width {depth}"
            if is_last:
                kinds |= patch_kinds(f"{depth}.", depth)
                continue
            kinds[f"{depth}.sums"] = TensorKind(FLOAT, (count, width), alike="sums")
            kinds[f"{depth}.totals"] = TensorKind(FLOAT, (count, 2 + votes), 0, alike="sums")
        check_tensors(progress.collected, kinds, sizes)
        for depth in range(self.depths):
            check_codebook(progress.collected, depth, patches="")


def _check_summary(state: Mapping[str, Tensor], depths: int) -> int:
    """Return the number of logits, once it is known to be one."""
    figures = {name: state[name] for name in ("summary.figures",) if name in state}
    check_tensors(figures, {"summary.figures": _summary_kinds(depths)["summary.figures"]}, {})
    n_logits = float(figures["summary.figures"][0])
    if not (1 <= n_logits < 2**31 and n_logits == math.floor(n_logits)):
        raise ValueError(f"summary.figures say {n_logits:g} logits")
    return int(n_logits)


def _summary_kinds(depths: int) -> dict[str, TensorKind]:
    return {
        "summary.figures": TensorKind(_WIDE, (4 + depths,)),
        "summary.seen": TensorKind(INTEGER, ("groups",), 0),
        "summary.kept": TensorKind(INTEGER, ("groups",), 0),
    }


def _ridge_kinds(state: Mapping[str, Tensor], n_logits: int, depths: int) -> dict[str, TensorKind]:
    """Return what the sums of the ridge surrogate must be; all zeros where none is needed."""
    gram = state.get("ridge.gram")
    if gram is None or not gram.ndim:
        names = ("count", "features", "logits", "gram", "cross", "squares")
        return {f"ridge.{name}": TensorKind(_WIDE, (), 0, 0) for name in names}
    width = f"width {depths - 1}"
    return {
        "ridge.count": TensorKind(_WIDE, (), 1),
        "ridge.features": TensorKind(_WIDE, (width,)),
        "ridge.logits": TensorKind(_WIDE, (n_logits,)),
        "ridge.gram": TensorKind(_WIDE, (width, width)),
        "ridge.cross": TensorKind(_WIDE, (width, n_logits)),
        "ridge.squares": TensorKind(_WIDE, (n_logits,), 0),
    }


def _is_gram(gram: Tensor) -> bool:
    return bool((gram.diagonal() >= 0).all()) and torch.allclose(gram, gram.T)
