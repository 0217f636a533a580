"""Variants differ from the default rows in what their names say."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from benchmarks.methods import captum_kmex
from benchmarks.methods.captum_kmex_variants import METHODS
from benchmarks.quality.method import UnavailableError
from benchmarks.quality.presets import PRESETS
from benchmarks.quality.task import Task
from benchmarks.tasks.mnist import TASKS
from captum_kmex import LayerKMeansAttribution

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")


@pytest.fixture(scope="module")
def task() -> Task:
    return TASKS["mnist"](PRESETS["test"])


@pytest.mark.bench
def test_share_vote_is_eq_10_on_the_default_segments(task: Task) -> None:
    default, paper = captum_kmex.LayerKMeans(1, True), METHODS["B4 fitted, share vote"]()
    for method in (default, paper):
        method.fit(task, seed=0)
    sample = task.sample("validation", 6)
    owners = default.attribution.bank_.codebooks[0].membership[
        default.segments(sample.inputs, sample.targets)
    ]
    expected = torch.stack([torch.bincount(o.flatten(), minlength=10) for o in owners])
    found = paper.predict(sample.inputs)
    assert torch.equal(expected.gather(1, found[:, None])[:, 0], expected.amax(1))
    with pytest.raises(UnavailableError, match="changes predictions alone"):
        paper.maps(sample.inputs, sample.targets)


def test_no_variant_repeats_a_default_row() -> None:
    assert not set(METHODS) & set(captum_kmex.METHODS)


@pytest.mark.bench
def test_depths_of_one_fit_are_the_fits_of_each_depth_alone(task: Task) -> None:
    for n_layers in (1, 2, 3):
        shared = captum_kmex.LayerKMeans(n_layers, True)
        shared.fit(task, seed=3)
        alone = LayerKMeansAttribution(task.model, task.layers[-n_layers:], seed=3)
        assert task.train is not None
        alone.fit(DataLoader(task.train, 128))
        book = shared.attribution.bank_.codebooks[0]
        torch.testing.assert_close(book.centroids, alone.bank_.codebooks[0].centroids)
        images = task.sample("validation", 6).inputs
        assert torch.equal(shared.predict(images), alone.predict(images))
