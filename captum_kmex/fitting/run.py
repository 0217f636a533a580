"""The fit: one pass for a bounded sample and its patches, k-means, further passes if asked for."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_kmex._version import __version__
from captum_kmex.bank.codebook import Codebook
from captum_kmex.data.batches import Batch, IndexedBatches
from captum_kmex.distributed import together
from captum_kmex.exceptions import RepresentativesWarning, warn_user
from captum_kmex.fitting.checkpoint import Checkpoint
from captum_kmex.fitting.fitted import Fitted
from captum_kmex.fitting.lloyd_pass import LloydPass
from captum_kmex.fitting.options import FitOptions, Observation, Observer
from captum_kmex.fitting.patch_pass import PatchPass
from captum_kmex.fitting.sampling_pass import Collection
from captum_kmex.fitting.solve import solve, warn_empty

__all__ = ["Fit", "describe"]


class _Collector(Protocol):
    """What a pass over the data fills, batch by batch."""

    def add(self, batch: Batch, seen: Observation) -> None:
        """Take in a batch and what the model made of it."""

    def state(self) -> dict[str, Tensor]:
        """Return what was collected so far."""

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take up what was saved."""

    def share(self) -> None:
        """Join what all machines have collected."""


@dataclass(frozen=True)
class Fit:
    """One fit: a loader, a model behind ``observe``, options, and a place for its progress.

    Attributes:
        batches: The images, the same in every pass.
        observe: Runs the model on a batch.
        options: Options of the fit.
        checkpoint: What an interrupted fit left behind; keeps this one's progress.
        show_progress: Show progress bars.
    """

    batches: IndexedBatches
    observe: Observer
    options: FitOptions
    checkpoint: Checkpoint
    show_progress: bool = False

    def run(self) -> Fitted:
        """Go through the stages that are left; the checkpoint is deleted at the end.

        Raises:
            ValueError: The loader is empty or cannot be read again for ``refine``, the labels
                do not fit, a class has no samples or too few rows.
        """
        if self.options.refine and not self.batches.is_repeatable:
            raise ValueError(
                "refine reads the loader again, but it can be read only once; pass a DataLoader"
            )
        if self.checkpoint.stage:
            found = Fitted.of(self.checkpoint.common, self.batches.device)
        else:
            found = self._sampled()
        for stage in range(max(1, self.checkpoint.stage), self.options.refine + 1):
            found.codebooks = self._refined(found, stage)
        warn_empty(found.codebooks)
        found.codebooks = self._with_patches(found)
        self.checkpoint.remove()
        return found

    def _sampled(self) -> Fitted:
        collection = Collection(self.options, self.batches.device)
        self._stream(collection, 0, "sampling")
        _check_ridge(collection)
        with self._plain_arithmetic():
            solved = solve(collection, self.options, self.show_progress)
        near = [each.near for each in solved if each.near is not None]
        return Fitted(collection.summary, collection.ridge, [each.book for each in solved], near)

    def _refined(self, found: Fitted, stage: int) -> list[Codebook]:
        """Return the codebooks after one Lloyd step over all rows."""
        self.checkpoint.begin(stage, found.state())
        step = LloydPass(found.codebooks, found.summary.n_classes, self.options)
        self._stream(step, stage, f"refining {stage}")
        if step.n_images != found.summary.n_images:
            raise ValueError(
                f"refine read {step.n_images} images, the first pass {found.summary.n_images}; "
                "pass a DataLoader that repeats, or refine=0"
            )
        return step.result()

    def _with_patches(self, found: Fitted) -> Sequence[Codebook]:
        """Return the codebooks with the training patches nearest to each prototype."""
        if found.near:
            count = self.options.n_representatives
            pairs = zip(found.codebooks, found.near, strict=True)
            return [
                replace(book, representatives=near.nearest(book.centroids, count))
                for book, near in pairs
            ]
        if self.options.n_representatives < 1 or self.options.keeps_places:
            return found.codebooks
        return self._with_exact_patches(found)

    def _with_exact_patches(self, found: Fitted) -> Sequence[Codebook]:
        """Search all rows for the patches, in one further pass."""
        if not self.batches.is_repeatable:
            _warn_patches(
                "the loader can be read only once, so no nearest training patches were "
                "collected; pass a DataLoader, or patch_search='sample', which needs no second pass"
            )
            return found.codebooks
        stage = self.options.n_passes
        self.checkpoint.begin(stage, found.state())
        search = PatchPass(found.codebooks, self.options)
        self._stream(search, stage, "nearest patches")
        if search.n_images != found.summary.n_images:
            _warn_patches(
                f"the last pass over the loader gave {search.n_images} images, the first "
                f"{found.summary.n_images}; the nearest training patches are those of the last. "
                "Pass a DataLoader that repeats"
            )
        return search.result()

    def _stream(self, collector: _Collector, stage: int, title: str) -> None:
        """Feed a collector all batches, or those that an interrupted fit had not reached.

        At the end it has what all machines have collected.
        """
        start = self.checkpoint.position if self.checkpoint.stage == stage else 0
        if start:
            collector.restore(self.checkpoint.collected)
            self.checkpoint.collected.clear()  # or the sample would lie in memory twice
        bar: Iterator[Batch] = tqdm(
            self.batches.after(start, self.checkpoint.marks),
            desc=f"KMEx: {title}",
            total=len(self.batches) or None,
            initial=start,
            disable=not self.show_progress,
        )
        with together():
            for position, batch in enumerate(bar, start + 1):
                seen = self.observe(batch)
                with self._plain_arithmetic():
                    self.checkpoint.compare(seen.logits.shape[1], seen.sources)
                    collector.add(batch, seen)
                if self.checkpoint.is_due:
                    self.checkpoint.save(position, collector.state())
        collector.share()

    def _plain_arithmetic(self) -> AbstractContextManager[object]:
        """Switch autocast off: it is for the model, not for distances."""
        return torch.autocast(self.batches.device.type, enabled=False)


def _check_ridge(collection: Collection) -> None:
    """Raise ``ValueError`` if only some images had an exact head, so that no head serves all."""
    count, n_images = collection.ridge.count, collection.summary.n_images
    if 0 < count < n_images:
        raise ValueError(
            f"of {n_images} images, {n_images - count} had an exact head and {count} had none, on "
            "different machines or before and after an interruption; pass a model whose logits "
            "all come from one head"
        )


def _warn_patches(message: str) -> None:
    warn_user(message, RepresentativesWarning)


def describe(found: Fitted, options: FitOptions) -> dict[str, object]:
    """Return the provenance that a bank's header records."""
    packages = ("torch", "captum", "numpy", "scikit-learn", "safetensors")
    return {
        "n_images": found.summary.n_images,
        "n_logits": found.summary.n_logits,
        "rows_seen": list(found.summary.seen),
        "rows_kept": list(found.summary.kept),
        "options": options.describe(),
        "versions": {"python": platform.python_version(), "captum_kmex": __version__}
        | {name: _version(name) for name in packages},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
