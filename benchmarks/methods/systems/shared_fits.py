"""Our fitted prototypes, once for all rows that share them: depths, votes, and TCAV's concepts."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.utils.data import DataLoader

from benchmarks.quality.method import UnavailableError
from benchmarks.quality.task import Task
from captum_kmex import LayerKMeansAttribution

__all__ = ["N_PATCHES", "fitted"]

N_PATCHES = 20  # nearest training patches of a prototype; TCAV takes them all as examples


def fitted(
    task: Task, n_layers: int, seed: int, weighting: str | None = None, n_prototypes: int = 5
) -> LayerKMeansAttribution:
    """Return an attribution of the last blocks, with the prototypes of their depth.

    Args:
        task: The task.
        n_layers: Blocks from the last one up.
        seed: Seed of the fit.
        weighting: Weights of the blocks.
        n_prototypes: Prototypes of a class.

    Raises:
        UnavailableError: The task has no training images.
    """
    bank = _fit(task, seed, weighting, n_prototypes).bank_
    own = replace(
        bank,
        layers=bank.layers[-n_layers:],
        weights=bank.weights[-n_layers:],
        codebooks=bank.codebooks[-n_layers:],
    )
    with TemporaryDirectory() as folder:  # a bank comes to an attribution by a file
        path = Path(folder) / "bank.safetensors"
        own.save(path)
        return LayerKMeansAttribution.load(path, task.model)


@lru_cache(maxsize=16)
def _fit(task: Task, seed: int, weighting: str | None, n_prototypes: int) -> LayerKMeansAttribution:
    if task.train is None:
        raise UnavailableError("needs training images")
    attribution = LayerKMeansAttribution(
        task.model, task.layers, weighting=weighting, n_prototypes=n_prototypes, seed=seed
    )
    count = N_PATCHES if weighting is None else 0  # of the default alone: TCAV takes no other
    return attribution.fit(DataLoader(task.train, 128), n_representatives=count)
