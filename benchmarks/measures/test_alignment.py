from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.measures import alignment, diversity
from benchmarks.measures.alignment import coverage
from benchmarks.measures.formulas.embeddings import embed, embed_test
from benchmarks.methods.captum_kmex import Columns, KMEx, LayerKMeans
from benchmarks.quality.measure import Answers
from benchmarks.quality.method import Method, Prototypes
from benchmarks.quality.presets import PRESETS
from benchmarks.quality.task import Sample, Task
from captum_kmex import ClassifierPrototypes, KMExAttribution
from captum_kmex.demo import SmallResNet

LAYERS = ("layer2", "layer3", "layer4")


@pytest.fixture(scope="module")
def task() -> Task:
    torch.manual_seed(0)
    model = SmallResNet(3, 1, 4).eval()
    data = TensorDataset(torch.randn(90, 1, 12, 12), torch.arange(90) % 3)
    images, labels = data.tensors
    sample = Sample(images[:4], labels[:4])
    names = ("a", "b", "c")
    return Task("t", "T", model, LAYERS, names, data, data, lambda *_: sample, (0.5,), (0.5,))


def score(measure: object, method: Method, task: Task) -> dict[str, torch.Tensor]:
    method.fit(task, 0)
    answers = Answers(method, task, task.sample("test", 4), PRESETS["test"], 0, lambda _: method)
    return dict(measure.MEASURES[0].score(answers))  # type: ignore[attr-defined]


def test_cosines_are_those_of_the_package(task):
    loader = DataLoader(task.test, 32)
    for method, package in (
        (Columns(), ClassifierPrototypes(task.model)),
        (KMEx(2), KMExAttribution(task.model, n_prototypes=2, seed=0).fit(loader)),
    ):
        found, expected = score(alignment, method, task), package.alignment(loader)
        assert found["class"].mean().item() == pytest.approx(expected.class_cosine, abs=1e-5)
        assert found["out"].mean().item() == pytest.approx(expected.out_cosine, abs=1e-5)
        assert found["class"].shape == (90,)


def test_coverage_is_that_of_scikit_learn(task):
    rows, labels = embed_test(KMEx(2), task)
    vectors, classes, expected = [], [], np.zeros(90)
    for c in range(3):
        own = rows[labels == c].numpy()
        fit = KMeans(2, random_state=0, n_init=1).fit(own)
        vectors.append(torch.from_numpy(fit.cluster_centers_))
        classes += [c, c]
        spread = np.linalg.norm(own - own.mean(0), axis=1).mean()
        expected[labels.numpy() == c] = fit.transform(own).min(1) / spread
    found = coverage(rows, labels, Prototypes(torch.cat(vectors), torch.tensor(classes)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3)
    means = torch.stack([rows[labels == c].mean(0) for c in range(3)])
    of_means = coverage(rows, labels, Prototypes(means, torch.arange(3)))
    assert of_means.mean().item() == pytest.approx(1, abs=1e-4)
    some = coverage(rows, labels, Prototypes(means[:2], torch.arange(2)))
    assert torch.equal(some.isnan(), labels == 2)


def test_embedding_of_a_network_is_what_its_head_reads(task):
    x = task.test.tensors[0][:5]
    rows = embed(KMEx(2), task, x)
    torch.testing.assert_close(task.model.fc(rows), task.model(x))


def test_layers_embed_as_the_mean_of_normalised_rows(task):
    method = LayerKMeans(3, True, n_prototypes=2)
    method.fit(task, 0)
    x = task.test.tensors[0][:5]
    found = method.embed(x)
    maps, handles = [], []
    for name in LAYERS:
        module = task.model.get_submodule(name)
        handles.append(module.register_forward_hook(lambda _, __, y: maps.append(y.detach())))
    task.model(x)
    for handle in handles:
        handle.remove()
    size = maps[0].shape[2:]
    rows = []
    for h in maps:
        up = torch.nn.functional.interpolate(h, size, mode="bilinear", align_corners=False)
        rows.append((up / up.norm(dim=1, keepdim=True)).mean((2, 3)))
    torch.testing.assert_close(found, torch.cat(rows, 1), atol=1e-5, rtol=1e-4)
    prototypes = method.prototypes()
    assert prototypes.vectors.shape == (6, found.shape[1])
    assert torch.equal(method.concept_classes(), prototypes.classes)


def test_prototypes_in_use_on_their_own_images(task):
    assert score(diversity, KMEx(2), task)["used"] == 1
    found = score(diversity, LayerKMeans(2, True, n_prototypes=2), task)
    assert 0 < found["used"] <= 1
    assert found["distinct"].shape == (4,)
