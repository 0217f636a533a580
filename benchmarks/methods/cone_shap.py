"""CONE-SHAP: Shapley values of the concepts in an image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import one_hot

from benchmarks.methods.systems.concept_images import class_images
from benchmarks.methods.systems.shapley import coalitions, shapley_values
from benchmarks.methods.systems.superpixels import cut_out, embed, few_superpixels
from benchmarks.quality.method import ConceptMaps, Method, UnavailableError
from benchmarks.quality.task import Task

__all__ = ["METHODS"]

_MOST_PLAYERS = 8
_N_CONCEPTS = 20
_N_CLUSTERED, _N_SCORED = 16, 4  # training images of each class


class ConeShap(Method):
    """Superpixels are grouped into concepts by their features; concepts share out the logit.

    Partly reconstructed: the paper samples coalitions of neighbours, here an image has at most
    eight concepts and all 256 coalitions are run, so the values are exact. What is absent has
    the data's mean colour. A map spreads a concept's value evenly over its pixels, so that it
    sums to the logit minus that of an empty picture. A concept's importance for a class is the
    mean of its values in that class's training images, 0 where it is absent. Without training
    images each superpixel is a concept of its own image.
    """

    family = "concepts"
    source = "Li et al. (2021), written from the paper"
    seeded = True
    passes = 2.0**_MOST_PLAYERS + _MOST_PLAYERS

    def fit(self, task: Task, seed: int) -> None:
        self._task = task
        self.shares_concepts = task.train is not None
        if task.train is None:
            return
        by_class = class_images(task, _N_CLUSTERED, seed)
        features = torch.cat([self._embed(image, s) for image, s in self._pairs(by_class)])
        count = min(_N_CONCEPTS, len(features))
        found = KMeans(count, n_init=3, random_state=seed).fit(features.double().numpy())
        self._centres = torch.from_numpy(found.cluster_centers_).to(features)
        self._importance = torch.stack(
            [self._class_scores(images[:_N_SCORED], c) for c, images in enumerate(by_class)]
        )  # (J, K)

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        segments = self.segments(inputs, targets)
        maps = []
        for image, target, segment in zip(inputs, targets.tolist(), segments, strict=True):
            players, position, values = self._shares(image, target, segment)
            areas = position.flatten().bincount(minlength=len(players))
            maps.append((values / areas)[position])
        return torch.stack(maps)

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        found = few_superpixels(self._task, inputs, _MOST_PLAYERS)
        if not self.shares_concepts:
            return found
        return torch.stack([self._concepts_of(x, s) for x, s in zip(inputs, found, strict=True)])

    def concepts(self, inputs: Tensor, targets: Tensor) -> ConceptMaps:
        if not self.shares_concepts:
            raise UnavailableError("shares concepts between images only where it can be fitted")
        maps = one_hot(self.segments(inputs, targets), len(self._centres)).permute(0, 3, 1, 2)
        return ConceptMaps(maps.float(), self._importance[targets])

    def _pairs(self, by_class: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        images = torch.cat(by_class)
        found = few_superpixels(self._task, images, _MOST_PLAYERS)
        return list(zip(images, found, strict=True))

    def _embed(self, image: Tensor, segments: Tensor) -> Tensor:
        """Return the features (S, D) of an image's superpixels, each cut out by itself."""
        masks = [segments == s for s in range(int(segments.max()) + 1)]
        alone = torch.stack([cut_out(self._task, image, mask) for mask in masks])
        return embed(self._task, self._task.layers[-1], alone)

    def _concepts_of(self, image: Tensor, segments: Tensor) -> Tensor:
        return torch.cdist(self._embed(image, segments), self._centres).argmin(1)[segments]

    def _class_scores(self, images: Tensor, target: int) -> Tensor:
        """Return the mean value (K,) of each concept in a class's images."""
        total = torch.zeros(len(self._centres))
        targets = torch.full((len(images),), target)
        for image, segment in zip(images, self.segments(images, targets), strict=True):
            players, _, values = self._shares(image, target, segment)
            total[players] += values
        return total / len(images)

    def _shares(
        self, image: Tensor, target: int, segments: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return an image's segment numbers (k,), their place in that list by pixel, values."""
        players, position = segments.unique(return_inverse=True)
        kept = coalitions(len(players))[:, position]  # (2^k, H, W)
        return players, position, shapley_values(self._logits(image * kept[:, None], target))

    @torch.no_grad()
    def _logits(self, images: Tensor, target: int) -> Tensor:
        return torch.cat([self._task.model(part)[:, target] for part in images.split(64)])


METHODS: dict[str, Callable[[], Method]] = {"CONE-SHAP": ConeShap}
