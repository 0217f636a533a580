from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.methods.protopnet import TrainedProtoPNet, _Backbone
from benchmarks.methods.systems.protopnet import (
    ProtoPNet,
    Schedule,
    loss_terms,
    push,
    similarity,
    train,
)
from benchmarks.methods.systems.tiny_task import tiny_task
from benchmarks.methods.systems.training import draw
from benchmarks.quality.method import UnavailableError

_SHORT = Schedule(per_class=2, channels=4, warm=1, joint=1, push_every=1, head=1, batch_size=16)


def _net() -> ProtoPNet:
    torch.manual_seed(0)
    return ProtoPNet(_Backbone(tiny_task().model, "4", False), 6, 3, _SHORT).eval()


def _method(seed: int = 0, cache: Path | None = None) -> TrainedProtoPNet:
    method = TrainedProtoPNet(_SHORT, cache)
    torch.manual_seed(seed)
    method.fit(tiny_task(), seed)
    return method


def test_distances_and_similarities_are_those_of_a_loop() -> None:
    net, images = _net(), tiny_task().sample("test", 3).inputs
    with torch.no_grad():
        latent = net.latent(images)
        found, nearest, logits = net.distances(latent), net.nearest(latent), net(images)
    z, p = latent.double().numpy(), net.prototypes.detach().double().numpy()
    wanted = np.zeros((3, 6, 8, 8))
    for n, k, i, j in np.ndindex(3, 6, 8, 8):
        wanted[n, k, i, j] = ((z[n, :, i, j] - p[k]) ** 2).sum()
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)
    closest = wanted.min((2, 3))
    np.testing.assert_allclose(nearest.numpy(), closest, atol=1e-5)
    scores = np.log((closest + 1) / (closest + 1e-4))
    head = net.head.weight.detach().numpy()
    np.testing.assert_allclose(logits.numpy(), scores @ head.T, atol=1e-3)


def test_head_starts_with_one_for_the_own_class_and_minus_half_for_others() -> None:
    weight = _net().head.weight.detach().numpy()
    wanted = np.full((3, 6), -0.5)
    for k in range(6):
        wanted[k // 2, k] = 1
    np.testing.assert_array_equal(weight, wanted)


def test_loss_terms_are_those_of_numpy() -> None:
    net = _net()
    nearest = torch.rand(5, 6, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 1, 2, 2, 0])
    terms = loss_terms(net, nearest, labels)
    d, y, owner = nearest.numpy(), labels.numpy(), np.arange(6) // 2
    own = np.mean([d[n, owner == y[n]].min() for n in range(5)])
    others = np.mean([d[n, owner != y[n]].min() for n in range(5)])
    weight = net.head.weight.detach().numpy()
    scores = np.log((d + 1) / (d + 1e-4)) @ weight.T
    entropy = np.mean([np.log(np.exp(s).sum()) - s[c] for s, c in zip(scores, y, strict=True)])
    assert terms.cluster.item() == pytest.approx(own, rel=1e-5)
    assert terms.separation.item() == pytest.approx(-others, rel=1e-5)
    assert terms.cross_entropy.item() == pytest.approx(entropy, rel=1e-5)
    assert terms.sparsity.item() == pytest.approx(0.5 * 12, rel=1e-6)


def test_push_makes_prototypes_patches_of_their_own_class() -> None:
    net = _net()
    images, labels = draw(tiny_task(), 48, 0)
    before = net.prototypes.detach().clone()
    nearest = push(net, images, labels)
    with torch.no_grad():
        latent = net.latent(images)
        patches = latent.movedim(1, 3)
        for k, owner in enumerate(net.classes.tolist()):
            own = patches[labels == owner].flatten(0, 2)
            gaps = (own - before[k]).norm(dim=1)
            assert torch.equal(net.prototypes[k], own[gaps.argmin()])
        torch.testing.assert_close(nearest, net.nearest(latent))
    assert bool((nearest.amin(0) < 1e-5).all())


def test_training_changes_a_copy_and_ends_with_prototypes_on_patches() -> None:
    task = tiny_task()
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    method = TrainedProtoPNet(_SHORT, None)
    torch.manual_seed(0)
    method.fit(task, 0)
    assert all(torch.equal(before[k], v) for k, v in task.model.state_dict().items())
    moved = method.net.backbone.state_dict()
    assert any(not torch.equal(before[k.removeprefix("body.")], v) for k, v in moved.items())
    images, _ = draw(task, 48, 0)
    assert bool((method.net.nearest(method.net.latent(images)).amin(0) < 1e-5).all())


def test_training_lowers_the_loss() -> None:
    net = _net()
    images, labels = draw(tiny_task(), 48, 0)

    def loss() -> float:
        with torch.no_grad():
            terms = loss_terms(net, net.nearest(net.latent(images)), labels)
            return float(terms.cross_entropy + 0.8 * terms.cluster + 0.08 * terms.separation)

    before = loss()
    train(net, images, labels, Schedule(2, 4, 10, 2, 2, 2, 16))
    assert loss() < before


def test_maps_are_the_weighted_similarities_of_the_targets_prototypes() -> None:
    method, sample = _method(), tiny_task().sample("test", 6)
    with torch.no_grad():
        maps = similarity(method.net.distances(method.net.latent(sample.inputs)))
    weight = method.net.head.weight
    for n, c in enumerate(sample.targets.tolist()):
        wanted = sum((weight[c, k] * maps[n, k] for k in (2 * c, 2 * c + 1)), Tensor([0.0]))
        found = method.maps(sample.inputs, sample.targets)[n]
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_concepts_add_up_to_the_logit_and_segments_are_the_most_similar() -> None:
    method, sample = _method(), tiny_task().sample("test", 6)
    concepts = method.concepts(sample.inputs, sample.targets)
    own = method.net(sample.inputs)[torch.arange(6), sample.targets]
    torch.testing.assert_close(concepts.importance.sum(1), own, atol=1e-4, rtol=1e-4)
    assert bool((concepts.maps >= 0).all())
    best = concepts.maps.amax(1)
    segments = method.segments(sample.inputs, sample.targets)
    torch.testing.assert_close(concepts.maps.gather(1, segments[:, None])[:, 0], best)
    assert torch.equal(method.predict(sample.inputs), method.net(sample.inputs).argmax(1))


def test_prototypes_and_embedding_share_a_space() -> None:
    method, sample = _method(), tiny_task().sample("test", 4)
    rows = method.embed(sample.inputs)
    found = method.prototypes()
    assert rows.shape == (4, 4)
    assert found.vectors.shape == (6, 4)
    assert found.classes.tolist() == [0, 0, 1, 1, 2, 2]


def test_second_fit_reads_what_the_first_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _method(cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr("benchmarks.methods.protopnet.train", None)  # a call would fail
    second = _method(cache=tmp_path)
    images = tiny_task().sample("test", 6).inputs
    assert torch.equal(first.net(images), second.net(images))
    with pytest.raises(TypeError):
        _method(seed=1, cache=tmp_path)  # another seed is trained anew


def test_fit_says_that_it_needs_training_images() -> None:
    with pytest.raises(UnavailableError, match="needs training images"):
        TrainedProtoPNet(_SHORT, None).fit(tiny_task(n_train=None), 0)
