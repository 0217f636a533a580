"""TCAV on concepts of two kinds, our prototypes and random patches; ACE's are in ``ace.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from captum.concept import Concept
from torch import Tensor
from torch.nn.functional import one_hot

from benchmarks.methods.systems.concept_images import ConceptImages, class_images, training_images
from benchmarks.methods.systems.concept_scores import ConceptTested, score_concepts
from benchmarks.methods.systems.shared_fits import N_PATCHES, fitted
from benchmarks.quality.method import ConceptMaps, Method, UnavailableError
from benchmarks.quality.task import Task
from captum_kmex.concepts import random_concept, to_concepts

__all__ = ["METHODS"]

_N_IMAGES = 20  # of each class, whose gradients are taken
_N_EXAMPLES = N_PATCHES  # images of a concept
_N_CONTROLS = 8
_N_RANDOM = 5  # random concepts a class, as many as we have prototypes


class Tcav(ConceptTested, Method):
    """TCAV scores of concepts that need no labels.

    TCAV gives a number for a concept and a class, and no map: the maps here are those numbers,
    less one half, on the segments of whoever found the concepts.

    Args:
        find: Takes a task and a seed and returns the concepts.
        passes: Forward passes that it costs to see where they are in an image.
    """

    family = "concepts"
    source = "Kim et al. (2018), captum"
    seeded = True

    def __init__(self, find: Callable[[Task, int], ConceptImages], passes: float = 1.0) -> None:
        self._find = find
        self.passes = passes

    def fit(self, task: Task, seed: int) -> None:
        by_class = class_images(task, _N_IMAGES, seed)
        self._found = found = self._find(task, seed)
        self.shares_concepts = found.locate is not None
        self._scores = score_concepts(
            task.model,
            task.layers[-2],  # after the last layer all is affine, and a sign count is 0 or 1
            found.examples,
            found.classes,
            found.controls,
            by_class,
        )

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        worth = torch.cat([self._scores.sign_count - 0.5, torch.zeros(1)])
        return worth[self.segments(inputs, targets)]

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        if self._found.locate is None:
            raise UnavailableError("gives a number for a concept, and these are nowhere")
        return self._found.locate(inputs, targets)

    def concepts(self, inputs: Tensor, targets: Tensor) -> ConceptMaps:
        count = len(self._found.examples)
        maps = one_hot(self.segments(inputs, targets), count + 1)[..., :count]
        own = torch.tensor(self._found.classes) == targets[:, None]
        return ConceptMaps(maps.permute(0, 3, 1, 2).float(), self._scores.sign_count * own)

    def significance(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._scores.p_values, self._scores.sign_count, self._scores.chance


def prototype_examples(n_layers: int, task: Task, seed: int) -> ConceptImages:
    """Return the training patches nearest to each of our prototypes."""
    data = training_images(task)
    attribution = fitted(task, n_layers, seed)
    membership = attribution.bank_.codebooks[0].membership
    concepts = to_concepts(attribution.bank_, data, range(len(membership)))
    controls = _random_patches(task, _N_CONTROLS, seed)
    examples = [_images(concept) for concept in concepts]
    locate = partial(attribution.segment, restrict="predicted")  # its target's, as ACE does
    return ConceptImages(examples, membership.tolist(), controls, locate)


def _random(task: Task, seed: int) -> ConceptImages:
    """Return sets of random patches that pass for concepts, some for each class."""
    count = _N_RANDOM * task.n_classes
    sets = _random_patches(task, count + _N_CONTROLS, seed)
    classes = [k // _N_RANDOM for k in range(count)]
    return ConceptImages(sets[_N_CONTROLS:], classes, sets[:_N_CONTROLS])


def _random_patches(task: Task, count: int, seed: int) -> list[Tensor]:
    data = training_images(task)
    seeds = range(1000 * seed, 1000 * seed + count)
    return [_images(random_concept(data, _N_EXAMPLES, seed=s)) for s in seeds]


def _images(concept: Concept) -> Tensor:
    batches: Iterable[Tensor] = concept.data_iter
    return torch.cat(list(batches))


METHODS: dict[str, Callable[[], Method]] = {
    "TCAV (B4 prototypes)": partial(Tcav, partial(prototype_examples, 1)),
    "TCAV (B234 prototypes)": partial(Tcav, partial(prototype_examples, 3)),
    "TCAV (random patches)": partial(Tcav, _random),
}
