"""A measure: what is asked of a method, and how its answers are scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.quality.method import ConceptMaps, Method
from benchmarks.quality.presets import Preset
from benchmarks.quality.task import Sample, Task

__all__ = ["Answers", "Column", "Measure"]

_MIN_IMAGES = 4


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        title: Its heading.
        better: ``"high"`` or ``"low"``; ``""`` where neither is better by itself.
        percent: Whether the report multiplies by a hundred.
    """

    title: str
    better: str = "high"
    percent: bool = True


@dataclass(frozen=True)
class Measure:
    """A table of the report.

    Attributes:
        name: Name on the command line.
        title: Heading of the table.
        columns: What is measured, by key.
        score: Takes the answers of a fitted method and returns a float tensor for each key:
            (n,), one value an image, or (), one value in all. It raises ``UnavailableError`` with
            the reason where the method or the task has not what it takes.
        text: What the table shows and where the formulas come from, Markdown.
    """

    name: str
    title: str
    columns: Mapping[str, Column]
    score: Callable[[Answers], Mapping[str, Tensor]]
    text: str = ""


@dataclass(frozen=True)
class Answers:
    """A fitted method's answers on one task, worked out when they are first asked for.

    Attributes:
        method: The method, fitted with ``seed``.
        task: The task.
        sample: The images to explain.
        preset: Sizes of the run.
        seed: Seed of the method, and of all that a measure draws.
        refit: Returns the method fitted on the same task with another seed.
    """

    method: Method
    task: Task
    sample: Sample
    preset: Preset
    seed: int
    refit: Callable[[int], Method] = field(repr=False)

    @property
    def explained(self) -> Sample:
        """The images that this method explains: all, or as many as its cost allows.

        They have no masks for a method that sees with the eyes that drew them.
        """
        affordable = self.preset.passes / (self.method.passes * self.task.weight)
        some = self.sample.first(max(_MIN_IMAGES, int(affordable)))
        is_own = self.task.masks_by and self.method.encoder == self.task.masks_by
        return replace(some, masks=None) if is_own else some

    @cached_property
    def maps(self) -> Tensor:
        """Maps of the explained images on the method's own grid, float tensor (n, h, w)."""
        return self.ask(self.method.maps)

    @cached_property
    def pixel_maps(self) -> Tensor:
        """The maps at the images' size (n, H, W), bilinear for every method alike."""
        return self.to_pixels(self.maps)

    @cached_property
    def segments(self) -> Tensor:
        """Segments of the explained images on the method's own grid, index tensor (n, h, w)."""
        return self.ask(self.method.segments)

    @cached_property
    def pixel_segments(self) -> Tensor:
        """The segments at the images' size (n, H, W)."""
        size = self.sample.inputs.shape[2:]
        scaled = interpolate(self.segments[:, None].double(), tuple(size), mode="nearest-exact")
        return scaled[:, 0].long()

    @cached_property
    def concepts(self) -> ConceptMaps:
        """Concept maps (n, K, h, w) and importance (n, K) of the explained images."""
        found = [self.method.concepts(x, t) for x, t in self._batches(self.explained)]
        return ConceptMaps(
            torch.cat([c.maps for c in found]), torch.cat([c.importance for c in found])
        )

    def ask(self, question: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return a method's answers to all explained images, asked in small batches."""
        return torch.cat([question(x, t).detach().cpu() for x, t in self._batches(self.explained)])

    def to_pixels(self, maps: Tensor) -> Tensor:
        """Return maps (n, h, w) at the images' size, bilinear."""
        size = tuple(self.sample.inputs.shape[2:])
        if tuple(maps.shape[1:]) == size:
            return maps
        return interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]

    @staticmethod
    def _batches(sample: Sample) -> list[tuple[Tensor, Tensor]]:
        pairs = zip(sample.inputs.split(8), sample.targets.split(8), strict=True)
        return list(pairs)
