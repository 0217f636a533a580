"""The three attributions of this project."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.layer_outputs import layer_outputs
from benchmarks.methods.systems.shared_fits import fitted
from benchmarks.quality.method import Method, Prototypes, UnavailableError
from benchmarks.quality.task import Task
from captum_kmex import ClassifierPrototypes, KMExAttribution, LayerKMeansAttribution
from captum_kmex.attributions.prototype_attribution import PrototypeAttribution
from captum_kmex.bank.prototype_bank import Codebook
from captum_kmex.composite.stack import StackedBlocks

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
        self.attribution = ClassifierPrototypes(task.model)
        self.attribution.attribute(task.sample("validation", 1).inputs)  # finds the head

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return _map(self.attribution, inputs, targets)

    def prototypes(self) -> Prototypes:
        columns = self.attribution.prototypes
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
        self.attribution = attribution.fit(DataLoader(task.train, 128), n_representatives=0)

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return _map(self.attribution, inputs, targets)

    def predict(self, inputs: Tensor) -> Tensor:
        return self.attribution.predict(inputs)

    def prototypes(self) -> Prototypes:
        book = self.attribution.bank_.codebooks[0]
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
            self.attribution = fitted(
                task, self._n_layers, seed, self._weighting, self._n_prototypes
            )
            self.attribution.vote = self._vote
            return
        layers = task.layers[-self._n_layers :]
        self.attribution = LayerKMeansAttribution(
            task.model, layers, weighting=self._weighting, seed=seed
        )

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return _map(self.attribution, inputs, targets)

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self.attribution.segment(inputs, targets)

    def predict(self, inputs: Tensor) -> Tensor:
        if not self._is_fitted:
            raise UnavailableError("predicts once it is fitted")
        return self.attribution.predict(inputs)

    def prototypes(self) -> Prototypes:
        book = self._book()
        return Prototypes(book.centroids, book.membership)

    def embed(self, inputs: Tensor) -> Tensor:
        """Return the mean of an image's composite rows, the vectors that are clustered."""
        self._book()  # says so where there is none
        attribution = self.attribution
        blocks = layer_outputs(attribution.model, attribution.bank_.layers, inputs)
        stack = StackedBlocks(tuple(blocks), attribution.bank_.weights)
        height, width = stack.grid
        everywhere = inputs.new_ones(len(inputs), 1, height, width)
        return stack.sums(everywhere)[:, 0] / (height * width)

    def concept_classes(self) -> Tensor:
        return self._book().membership

    def _book(self) -> Codebook:
        if not self._is_fitted:
            raise UnavailableError("has prototypes once it is fitted")
        return self.attribution.bank_.codebooks[0]


_DEPTHS = {"B4": 1, "B34": 2, "B234": 3}
METHODS: dict[str, Callable[[], Method]] = {
    "Classifier prototypes": Columns,
    "KMEx (K=5)": partial(KMEx, 5),
    "KMEx (K=10)": partial(KMEx, 10),
}
for _name, _n_layers in _DEPTHS.items():
    METHODS[f"{_name} unfitted"] = partial(LayerKMeans, _n_layers, False)
    METHODS[f"{_name} fitted"] = partial(LayerKMeans, _n_layers, True)
