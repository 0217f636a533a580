"""CRAFT, concept recursive activation factorisation (Fel et al., 2023), from the paper."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from scipy.stats import qmc
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.methods.systems.class_concepts import ClassConcepts
from benchmarks.methods.systems.nmf import codes_of, factorise, map_codes
from benchmarks.methods.systems.tap import Tap
from benchmarks.methods.systems.training import draw, draw_by_class
from benchmarks.quality.method import Method, Prototypes
from benchmarks.quality.task import Task

__all__ = ["METHODS"]

_CROP, _STRIDE = 64 / 224, 51 / 224  # of the image's side
_DESIGN = 32
_MAX_CODES = 200  # crops a class on which the importance is measured
_PER_CLASS = 50
_BUDGET = 240.0  # passes of a mobile network; 8,000 crops of a small one


class Craft(ClassConcepts):
    """Class by class, NMF of the pooled activations of crops; worth of a concept by Sobol index.

    One level of the hierarchy: the recursion to earlier layers is left out.
    """

    source = (
        "Fel et al. (2023), written from the paper, without recursion; crops of 64/224 of the "
        "side, up to 50 images a class (fewer for costly networks), NMF of scikit-learn"
    )

    def __init__(self, n_concepts: int) -> None:
        self._n_concepts = n_concepts

    def fit(self, task: Task, seed: int) -> None:
        per_image = len(crops_of(draw(task, 1, seed)[0]))
        affordable = _BUDGET / (task.weight * per_image * task.n_classes)
        by_class = draw_by_class(task, max(5, min(_PER_CLASS, int(affordable))), seed)
        self.tap = Tap(task.model, by_class[0])
        columns = self.tap.columns.cpu()
        bases, worths = [], []
        for images, column in zip(by_class, columns, strict=True):
            pooled = self.tap.features(crops_of(images)).mean((2, 3))
            basis = factorise(pooled, self._n_concepts, seed)
            worths.append(_importance(codes_of(pooled[:_MAX_CODES], basis), basis @ column, seed))
            bases.append(basis)
        self.bases = torch.stack(bases)  # (J, K, D)
        self.importance = torch.stack(worths)  # (J, K)

    def scores(self, inputs: Tensor) -> Tensor:
        features = self.tap.features(inputs)
        return torch.stack([map_codes(features, basis) for basis in self.bases], 1)

    def own_scores(self, inputs: Tensor, targets: Tensor) -> Tensor:
        features = self.tap.features(inputs)
        found = features.new_empty(len(inputs), self._n_concepts, *features.shape[2:])
        for c in targets.unique():  # no other class's codes are needed
            found[targets == c] = map_codes(features[targets == c], self.bases[c])
        return found

    def worth(self, scores: Tensor, targets: Tensor) -> Tensor:
        return self.importance[targets]

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        codes = self.own_scores(inputs, targets)
        return torch.einsum("nkhw,nk->nhw", codes, self.importance[targets])

    def prototypes(self) -> Prototypes:
        n_classes, n_concepts, _ = self.bases.shape
        classes = torch.arange(n_classes).repeat_interleave(n_concepts)
        return Prototypes(self.bases.flatten(0, 1), classes)


def crops_of(images: Tensor) -> Tensor:
    """Return the crops of images (N, C, H, W) at the images' size, image by image."""
    height, width = images.shape[2:]
    side = min(height, width)
    crop, stride = max(1, round(side * _CROP)), max(1, round(side * _STRIDE))
    windows = images.unfold(2, crop, stride).unfold(3, crop, stride)
    flat = windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    return interpolate(flat, (height, width), mode="bilinear", align_corners=False)


def _importance(codes: Tensor, evidence: Tensor, seed: int) -> Tensor:
    """Return the mean total index (K,) of the concepts in the class's logit over the crops.

    Args:
        codes: Codes of the crops (M, K).
        evidence: What one unit of each concept adds to the logit, <v_k, c_j>, (K,).
        seed: Seed of the masks.
    """

    def logits(masks: Tensor) -> Tensor:
        return (masks * evidence.double()) @ codes.double().T  # (masks, M), bias left out

    return total_indices(logits, len(evidence), seed).mean(1).to(codes.dtype)


def total_indices(
    function: Callable[[Tensor], Tensor], n_variables: int, seed: int, design: int = _DESIGN
) -> Tensor:
    """Return the total Sobol indices of functions of independent uniform variables.

    Jansen's (1999) estimator on scrambled Halton points,
    ``ST_k = mean (f(A) - f(A with column k of B))^2 / (2 var f)``.

    Args:
        function: Takes points in [0, 1]^K, float64 tensor (P, K), and returns the values
            (P, M) of M functions.
        n_variables: Number of variables K.
        seed: Seed of the scrambling.
        design: Points in each of the designs A and B.

    Returns:
        Float tensor (K, M); zero for a function that does not vary.
    """
    points = torch.from_numpy(qmc.Halton(2 * n_variables, seed=seed).random(design))
    first, second = points.split(n_variables, 1)
    values = function(first)
    spread = torch.cat([values, function(second)]).var(0)
    indices = []
    for k in range(n_variables):
        mixed = first.clone()
        mixed[:, k] = second[:, k]
        indices.append((values - function(mixed)).square().mean(0) / 2)
    found = torch.stack(indices)
    return torch.where(spread > 0, found / spread.clamp_min(1e-30), torch.zeros_like(found))


METHODS: dict[str, Callable[[], Method]] = {"CRAFT (10 concepts)": partial(Craft, 10)}
