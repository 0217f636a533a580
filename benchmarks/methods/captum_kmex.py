"""The three attributions of this project."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.evaluation.method import Method, Prototypes, UnavailableError
from benchmarks.evaluation.task import Task
from benchmarks.methods._fitted import fitted
from captum_kmex import ClassifierPrototypes, KMExAttribution, LayerKMeansAttribution
from captum_kmex.attributions.prototype_attribution import PrototypeAttribution
from captum_kmex.bank.prototype_bank import Codebook

__all__ = ["METHODS"]

_SOURCE = "Boubekki & Clemmensen (2026), captum_kmex"


def _map(attribution: PrototypeAttribution, inputs: Tensor, targets: Tensor) -> Tensor:
    maps: Tensor = attribution.attribute(inputs, targets)
    return maps[:, 0]


class Columns(Method):
    """The head's own columns as prototypes (eqs. 4, 5, 11)."""

    family = "captum_kmex"
    source = _SOURCE

    def fit(self, task: Task, seed: int) -> None:
        self._attribution = ClassifierPrototypes(task.model)
        self._attribution.attribute(task.sample("validation", 1).inputs)  # finds the head

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return _map(self._attribution, inputs, targets)

    def prototypes(self) -> Prototypes:
        columns = self._attribution.prototypes
        return Prototypes(columns, torch.arange(len(columns)))


class KMEx(Method):
    """Class-wise k-means of the pooled embeddings."""

    family = "captum_kmex"
    source = "Gautam et al. (2024), captum_kmex"
    seeded = True

    def __init__(self, n_prototypes: int) -> None:
        self._n_prototypes = n_prototypes

    def fit(self, task: Task, seed: int) -> None:
        if task.train is None:
            raise UnavailableError("needs training images")
        attribution = KMExAttribution(task.model, n_prototypes=self._n_prototypes, seed=seed)
        self._attribution = attribution.fit(DataLoader(task.train, 128), n_representatives=0)

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return _map(self._attribution, inputs, targets)

    def predict(self, inputs: Tensor) -> Tensor:
        return self._attribution.predict(inputs)

    def prototypes(self) -> Prototypes:
        book = self._attribution.bank_.codebooks[0]
        return Prototypes(book.centroids, book.membership)


class LayerKMeans(Method):
    """k-means segments of the last ``n_layers`` blocks, unfitted or fitted."""

    family = "captum_kmex"
    source = _SOURCE
    seeded = True

    def __init__(
        self,
        n_layers: int,
        is_fitted: bool,
        *,
        weighting: str | None = None,
        vote: str = "distance",
        n_prototypes: int = 5,
    ) -> None:
        self._n_layers, self._is_fitted = n_layers, is_fitted
        self._weighting, self._vote, self._n_prototypes = weighting, vote, n_prototypes
        self.shares_concepts = is_fitted

    def fit(self, task: Task, seed: int) -> None:
        if self._is_fitted:
            self._attribution = fitted(
                task, self._n_layers, seed, self._weighting, self._n_prototypes
            )
            self._attribution.vote = self._vote
            return
        layers = task.layers[-self._n_layers :]
        self._attribution = LayerKMeansAttribution(
            task.model, layers, weighting=self._weighting, seed=seed
        )

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return _map(self._attribution, inputs, targets)

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._attribution.segment(inputs, targets)

    def predict(self, inputs: Tensor) -> Tensor:
        if not self._is_fitted:
            raise UnavailableError("predicts once it is fitted")
        return self._attribution.predict(inputs)

    def prototypes(self) -> Prototypes:
        book = self._book()
        return Prototypes(book.centroids, book.membership)

    def embed(self, inputs: Tensor) -> Tensor:
        """Return the mean of an image's composite rows, the vectors that are clustered."""
        passed = self._attribution._run_layers((inputs,), None, False, needs_head=False)
        stack = self._attribution._stack(passed)
        height, width = stack.grid
        everywhere = inputs.new_ones(len(inputs), 1, height, width)
        return stack.sums(everywhere)[:, 0] / (height * width)

    def concept_classes(self) -> Tensor:
        return self._book().membership

    def _book(self) -> Codebook:
        if not self._is_fitted:
            raise UnavailableError("has prototypes once it is fitted")
        return self._attribution.bank_.codebooks[0]


_DEPTHS = {"B4": 1, "B34": 2, "B234": 3}
METHODS: dict[str, Callable[[], Method]] = {
    "Classifier prototypes": Columns,
    "KMEx (K=5)": partial(KMEx, 5),
    "KMEx (K=10)": partial(KMEx, 10),
}
for _name, _n_layers in _DEPTHS.items():
    METHODS[f"{_name} unfitted"] = partial(LayerKMeans, _n_layers, False)
    METHODS[f"{_name} fitted"] = partial(LayerKMeans, _n_layers, True)
