"""A method: what is compared, behind one small interface."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from benchmarks.quality.task import Task

__all__ = ["CONTROLS", "OURS", "ConceptMaps", "Method", "Prototypes", "UnavailableError"]

OURS, CONTROLS = "captum_kmex", "Controls"  # families that stand apart from the others


class UnavailableError(Exception):
    """What was asked for cannot be had, and why; the report prints the reason in its place."""


@dataclass(frozen=True)
class Prototypes:
    """Vectors in the space of the pooled embedding, or in that of the method's ``embed``.

    Attributes:
        vectors: Float tensor (K, D).
        classes: Class of each, integer tensor (K,).
    """

    vectors: Tensor
    classes: Tensor


@dataclass(frozen=True)
class ConceptMaps:
    """Where each concept is, and what it is worth.

    Attributes:
        maps: Float tensor (N, K, h, w), not negative; concepts are the same for all images.
        importance: Worth of each concept for the explained class, float tensor (N, K).
    """

    maps: Tensor
    importance: Tensor


class Method(ABC):
    """One row of the tables.

    A subclass overrides what it can do; the rest stays unavailable, and is reported as such.
    Everything is asked for after ``fit``. Images come in small batches, on the CPU.

    Attributes:
        family: Heading under which the report lists it.
        source: Author, year, and the package that runs it.
        seeded: Whether it depends on the seed, and so runs once a seed.
        passes: Forward passes that explaining one image costs, about; a backward pass counts
            as two. Where it is large, fewer images are explained.
        encoder: A network besides the task's own with whose eyes it sees.
    """

    family: ClassVar[str]
    source: str
    seeded: bool = False
    passes: float = 1.0
    encoder: str = ""

    def fit(self, task: Task, seed: int) -> None:
        """Prepare for a task's network and training images.

        Raises:
            UnavailableError: The method cannot run on this task.
        """
        raise NotImplementedError

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return maps (N, h, w), on any grid, of the evidence for the targets (N,)."""
        raise UnavailableError("gives no map")

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the segment of each pixel, integer tensor (N, h, w), on any grid.

        A number means the same concept in all images where ``shares_concepts`` is true.
        """
        raise UnavailableError("gives no segments")

    def base(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return what the targets' outputs are without the map (N,), where maps add up to them."""
        raise UnavailableError("is no ledger, or one that begins at the head's bias")

    shares_concepts: bool = False

    def concepts(self, inputs: Tensor, targets: Tensor) -> ConceptMaps:
        """Return concept maps and their importance."""
        raise UnavailableError("gives no concept maps")

    def predict(self, inputs: Tensor) -> Tensor:
        """Return the classes (N,) that the surrogate predicts."""
        raise UnavailableError("is no surrogate classifier")

    def prototypes(self) -> Prototypes:
        """Return the prototypes of the pooled embedding."""
        raise UnavailableError("has no prototypes of the embedding")

    def embed(self, inputs: Tensor) -> Tensor:
        """Return the images (N, D) in the space of the prototypes, where that is its own."""
        raise UnavailableError("its prototypes are in the space of the network's embedding")

    def concept_classes(self) -> Tensor:
        """Return the class of each concept (K,), -1 where it belongs to none.

        Concept k is number k of shared segments, or of ``concepts``.
        """
        raise UnavailableError("does not count its concepts")
