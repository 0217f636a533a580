"""ACE: concepts of each class discovered among superpixels, kept where TCAV finds them real."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from benchmarks.methods.systems.ace_clusters import scales
from benchmarks.methods.systems.ace_concepts import ACE_PASSES, ace_concepts
from benchmarks.methods.systems.concept_images import ConceptImages
from benchmarks.methods.systems.concept_scores import score_concepts
from benchmarks.methods.tcav import Tcav
from benchmarks.quality.method import ConceptMaps, Method
from benchmarks.quality.task import Task

__all__ = ["METHODS"]

_ALPHA = 0.05


class Ace(Method):
    """Automatic concept-based explanations, scaled down for small pictures.

    Superpixels at three scales, as many as the picture has room for, are cut out on grey and
    clustered a class; a cluster that passes ACE's filter is a concept if its TCAV score differs
    from that of chance (two-sided t-test, p < .05, against random superpixels). A segment is a
    superpixel's concept among those of the explained class; the map is its TCAV score less one
    half, mean over the scales, 0 where there is no concept.
    """

    family = "concepts"
    source = "Ghorbani et al. (2019), written from the paper; TCAV by captum"
    seeded = True
    shares_concepts = True
    passes = ACE_PASSES

    def __init__(self, n_clusters: int | None = None) -> None:
        self._n_clusters = n_clusters

    def fit(self, task: Task, seed: int) -> None:
        self._found = found = ace_concepts(task, seed, self._n_clusters)
        concepts = found.concept_images()
        test = score_concepts(
            task.model,
            found.layer,
            concepts.examples,
            concepts.classes,
            concepts.controls,
            found.images,
        )
        scores = torch.where(test.p_values < _ALPHA, test.sign_count, torch.nan)
        every = torch.cat([scores, torch.full((1,), torch.nan)])  # the last is no concept
        self._kept = (~every.isnan()).nonzero()[:, 0]
        self.scores, self.classes = every[self._kept], found.classes[self._kept]
        self._places = torch.full((len(every),), len(self._kept))
        self._places[self._kept] = torch.arange(len(self._kept))

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        worth = torch.cat([self.scores - 0.5, torch.zeros(1)])
        wanted = targets[:, None]
        return torch.stack(
            [worth[self._segments(inputs, s, wanted)][:, 0] for s in scales(inputs.shape[-1])]
        ).mean(0)

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._segments(inputs, scales(inputs.shape[-1])[-1], targets[:, None])[:, 0]

    def concepts(self, inputs: Tensor, targets: Tensor) -> ConceptMaps:
        every = torch.arange(len(self._found.discoveries)).expand(len(inputs), -1)
        count = len(self._kept)
        maps = torch.zeros(len(inputs), count, *inputs.shape[2:])
        for scale in scales(inputs.shape[-1]):
            for found in self._segments(inputs, scale, every).unbind(1):
                maps += one_hot(found, count + 1)[..., :count].permute(0, 3, 1, 2)
        own = self.classes == targets[:, None]
        return ConceptMaps(maps / len(scales(inputs.shape[-1])), self.scores * own)

    def _segments(self, inputs: Tensor, count: int, classes: Tensor) -> Tensor:
        return self._places[self._found.by_class(inputs, count, classes)]


def _clusters(task: Task, seed: int) -> ConceptImages:
    return ace_concepts(task, seed).concept_images()


METHODS: dict[str, Callable[[], Method]] = {
    "ACE": Ace,
    # here, and not with TCAV's others: one process then runs both and discovers once
    "TCAV (ACE clusters)": partial(Tcav, _clusters, ACE_PASSES),
}
