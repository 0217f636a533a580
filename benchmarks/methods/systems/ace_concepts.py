"""The concepts that ACE discovers in all classes, and where they are in an image."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.methods.systems.ace_clusters import Discovery, discover, scales
from benchmarks.methods.systems.concept_images import ConceptImages, class_images, training_images
from benchmarks.methods.systems.superpixels import cut_out, embed, superpixels
from benchmarks.quality.task import Task

__all__ = ["ACE_PASSES", "AceConcepts", "ace_concepts"]

ACE_PASSES = 30.0  # every superpixel of an image is a forward pass
_N_IMAGES, _FEW = 20, 10  # discovery images of a class; 50 in the paper
_SHARE = 8  # of the training images is searched, if that is fewer
_N_CONTROLS, _N_RANDOM = 8, 20  # random sets, and superpixels in each


class AceConcepts:
    """The clusters of all classes, numbered through, and where they are in an image.

    Args:
        task: The task.
        seed: Seed of the images drawn and of the clusters.
        n_clusters: Clusters of each class, before ACE's filter; by default 25, as in the paper,
            or 12 of small pictures, whose superpixels are fewer.

    Attributes:
        layer: The layer before the last: after the last, all is affine, and TCAV says 0 or 1.
        images: The images of each class that were searched.
        discoveries: What was found in each class.
        classes: Class of each cluster that passed ACE's filter, integer tensor (K,).
    """

    def __init__(self, task: Task, seed: int, n_clusters: int | None = None) -> None:
        self._task, self._seed = task, seed
        self.layer = task.layers[-2]
        size = len(training_images(task)) // (_SHARE * task.n_classes)
        self.images = class_images(task, min(_N_IMAGES, max(size, _FEW)), seed)
        count = n_clusters or (25 if self.images[0].shape[-1] >= 112 else 12)
        self.discoveries = [discover(task, self.layer, x, seed, count) for x in self.images]
        counts = torch.tensor([len(found.kept) for found in self.discoveries])
        self.classes = torch.arange(len(counts)).repeat_interleave(counts)
        starts = counts.cumsum(0) - counts
        pairs = zip(self.discoveries, starts.tolist(), strict=True)
        self._numbers = [self._number(found, start) for found, start in pairs]

    def controls(self) -> list[Tensor]:
        """Return sets of random superpixels of all classes."""
        pool = torch.cat([found.pool for found in self.discoveries])
        generator = torch.Generator().manual_seed(self._seed)
        size = (_N_CONTROLS, _N_RANDOM)
        return list(pool[torch.randint(len(pool), size, generator=generator)])

    def concept_images(self) -> ConceptImages:
        """Return the clusters as sets of images."""
        examples = [shown for found in self.discoveries for shown in found.examples]
        return ConceptImages(examples, self.classes.tolist(), self.controls(), self.locate)

    def locate(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return each pixel's cluster among the target's (N, H, W), K where it has none."""
        return self.by_class(inputs, scales(inputs.shape[-1])[-1], targets[:, None])[:, 0]

    def by_class(self, inputs: Tensor, count: int, classes: Tensor) -> Tensor:
        """Return each pixel's cluster among each class's, (N, c, H, W), K where it has none.

        Args:
            inputs: Images (N, C, H, W).
            count: Superpixels an image.
            classes: Classes of each image, integer tensor (N, c).
        """
        found = superpixels(self._task, inputs, count)
        images = []
        for image, segments, wanted in zip(inputs, found, classes.tolist(), strict=True):
            masks = [segments == s for s in range(int(segments.max()) + 1)]
            alone = torch.stack([cut_out(self._task, image, mask) for mask in masks])
            features = embed(self._task, self.layer, alone)
            images.append(torch.stack([self._nearest(features, c)[segments] for c in wanted]))
        return torch.stack(images)

    def _nearest(self, features: Tensor, label: int) -> Tensor:
        """Return the number of the nearest cluster of a class to each superpixel."""
        nearest = torch.cdist(features, self.discoveries[label].centres).argmin(1)
        return self._numbers[label][nearest]

    def _number(self, found: Discovery, start: int) -> Tensor:
        """Return each cluster's number among all that are kept; their count for the others."""
        numbers = torch.full((len(found.centres),), len(self.classes))
        numbers[found.kept] = start + torch.arange(len(found.kept))
        return numbers


@lru_cache(maxsize=4)
def ace_concepts(task: Task, seed: int, n_clusters: int | None = None) -> AceConcepts:
    """Return the concepts of a task, once for ACE and for TCAV on them."""
    return AceConcepts(task, seed, n_clusters)
