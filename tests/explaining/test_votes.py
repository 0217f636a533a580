"""The distance vote equals a loop over positions, and is what ``classify`` returns."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import LAYERS, make_net

from captum_kmex import LayerKMeansAttribution
from captum_kmex.bank.prototype_bank import Codebook
from captum_kmex.composite.by_class import best_by_class
from captum_kmex.composite.nearness import mean_log_nearness
from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.explaining import votes
from captum_kmex.explaining.votes import VOTES, Ballot, Vote, distance_scores

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")

WEIGHTS = (1.0, 0.5)


def make_stack(n=3, deep=(2, 3)) -> StackedBlocks:
    generator = torch.Generator().manual_seed(0)
    sizes = ((n, 4, 4, 6), (n, 5, *deep))
    return StackedBlocks(tuple(torch.rand(*s, generator=generator) for s in sizes), WEIGHTS)


def naive_scores(stack: StackedBlocks, centroids, membership, n_classes) -> np.ndarray:
    """Return the scores by loops over images, positions and classes."""
    big = [F.interpolate(b, stack.grid, mode="bilinear").double().numpy() for b in stack.blocks]
    found = np.full((len(big[0]), n_classes), -np.inf)
    scale = sum(w**2 for w in WEIGHTS)
    for n in range(len(found)):
        for c in set(membership.tolist()):
            own, logs = centroids[membership == c].double().numpy(), []
            for y, x in np.ndindex(*stack.grid):
                parts = [b[n, :, y, x] for b in big]
                parts = [w * v / np.linalg.norm(v) for w, v in zip(WEIGHTS, parts, strict=True)]
                nearest = ((np.concatenate(parts) - own) ** 2).sum(1).min()
                logs.append(np.log(nearest / scale + 1e-4) / 2)
            found[n, c] = -np.mean(logs)
    return found


@pytest.fixture
def centroids():
    return torch.rand(6, 9, generator=torch.Generator().manual_seed(1))


MEMBERSHIPS = {
    "even": [0, 0, 1, 1, 2, 2],
    "uneven": [0, 1, 1, 1, 2, 2],
    "mixed": [2, 0, 1, 0, 2, 1],
    "gap": [0, 0, 3, 3, 3, 0],
}
memberships = pytest.mark.parametrize("members", MEMBERSHIPS.values(), ids=MEMBERSHIPS)


@memberships
def test_distance_scores_equal_loop_over_positions(centroids, members):
    stack, membership = make_stack(), torch.tensor(members)
    found = distance_scores(stack, centroids, membership, 5)
    expected = naive_scores(stack, centroids, membership, 5)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@memberships
def test_distance_scores_do_not_depend_on_the_chunk(centroids, members, monkeypatch):
    stack, membership = make_stack(), torch.tensor(members)
    whole = distance_scores(stack, centroids, membership, 4)
    monkeypatch.setattr("captum_kmex.composite.nearness._SCORES", 1)
    assert torch.allclose(distance_scores(stack, centroids, membership, 4), whole, atol=1e-6)


def test_class_without_prototypes_never_wins(centroids):
    scores = distance_scores(make_stack(), centroids, torch.tensor([1, 1, 1, 3, 3, 3]), 5)
    assert torch.isneginf(scores[:, [0, 2, 4]]).all()
    assert scores[:, [1, 3]].isfinite().all()


def test_image_on_a_class_s_prototypes_is_as_near_to_it_as_can_be(centroids):
    stack = make_stack(1)
    rows = stack.rows(torch.zeros(24, dtype=torch.int64), torch.arange(24))
    membership = torch.tensor([1] * 24 + [0] * 6)
    scores = distance_scores(stack, torch.cat([rows, centroids]), membership, 2)
    assert scores[0, 1] == pytest.approx(-0.5 * np.log(1e-4), abs=0.05)
    assert scores[0, 0] < 2


def test_distance_scores_do_not_depend_on_the_scale_of_the_weights(centroids):
    stack, membership = make_stack(), torch.tensor([0, 0, 0, 1, 1, 1])
    scaled = StackedBlocks(stack.blocks, tuple(7 * w for w in WEIGHTS))
    found = distance_scores(scaled, 7 * centroids, membership, 2)
    assert torch.allclose(found, distance_scores(stack, centroids, membership, 2), atol=1e-5)


def test_rows_of_zeros_are_scored(centroids):
    blocks = tuple(torch.zeros_like(block) for block in make_stack().blocks)
    membership = torch.tensor([0, 0, 0, 1, 1, 1])
    scores = distance_scores(StackedBlocks(blocks, WEIGHTS), centroids, membership, 2)
    assert scores.isfinite().all()


def test_few_telling_positions_outweigh_many_that_tell_nothing():
    """The paper's rule would give the image to class 1: it wins 15 pixels of 16 by a hair."""
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    labels = torch.zeros(16, dtype=torch.int64)
    labels[0] = 1
    block = rows[labels].T.view(1, 2, 4, 4)
    common = torch.tensor([[0.7, 0.01], [0.7, 0.0]])  # both classes have it, class 1 nearer
    centroids = torch.cat([common, torch.tensor([[0.0, 0.99], [0.7, -0.7]])])
    membership = torch.tensor([0, 1, 0, 1])
    scores = distance_scores(StackedBlocks((block,), (1.0,)), centroids, membership, 2)
    assert scores.argmax(1).item() == 0
    nearest = torch.cdist(rows[labels], centroids).argmin(1)
    assert torch.bincount(membership[nearest]).tolist() == [1, 15]


@pytest.fixture(scope="module")
def made(drawn_images) -> LayerKMeansAttribution:
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2, weighting=[1, 2, 3])
    return attr.fit([(drawn_images, torch.arange(12) % 3)], n_init=2, n_representatives=0)


@pytest.fixture
def fitted(made) -> LayerKMeansAttribution:
    return copy.deepcopy(made)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_classify_scores_are_distance_scores_of_that_depth(fitted, images, depth):
    features = []
    hooks = [
        fitted.model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output: features.append(output.detach().clone())
        )
        for name in LAYERS
    ]
    with torch.no_grad():
        fitted.model(images)
    for hook in hooks:
        hook.remove()
    book = fitted.bank_.codebooks[depth]
    stack = StackedBlocks(tuple(features[depth:]), fitted.bank_.weights[depth:])
    expected = distance_scores(stack, book.centroids, book.membership, 3)
    found = fitted.classify(images, depth=depth)
    assert torch.allclose(found.scores, expected, atol=1e-5)
    assert torch.equal(found.prediction, found.scores.argmax(1))


def test_explain_votes_as_classify_does(fitted, images):
    for vote in votes.VOTES:
        fitted.vote = vote
        found = fitted.explain(images, depth=1, restrict="predicted")
        assert torch.equal(found.class_scores, fitted.classify(images, depth=1).scores)
        assert torch.equal(found.prediction, fitted.predict(images, depth=1))


def test_votes_differ_on_the_same_bank(fitted, images):
    near = fitted.classify(images).scores
    fitted.vote = "share"
    shares = fitted.classify(images).scores
    assert not torch.allclose(near.softmax(1), shares, atol=0.05)
    assert torch.allclose(shares.sum(1), torch.ones(12), atol=1e-6)


def test_unknown_vote_is_refused(fitted, images):
    fitted.vote = "loudest"
    with pytest.raises(ValueError, match=r"vote='loudest' is unknown.*'distance'"):
        fitted.classify(images)


def test_vote_of_classes_left_out_of_the_fit_is_minus_infinity(images, labels):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2)
    attr.fit([(images, labels)], classes=[0, 2], n_init=2, n_representatives=0)
    found = attr.classify(images)
    assert torch.isneginf(found.scores[:, 1]).all()
    assert not (found.prediction == 1).any()


def test_class_agnostic_prototypes_vote_by_share(images):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=4)
    attr.fit([images], labels=None, n_init=2, n_representatives=0)
    one = attr.classify(images)
    other = copy.copy(attr)
    other.vote = "share"
    assert torch.equal(one.scores, other.classify(images).scores)


def test_bank_keeps_the_vote(fitted, images, tmp_path):
    fitted.vote = "share"
    fitted.fit([(images, torch.arange(12) % 3)], n_init=2, n_representatives=0)
    fitted.save(tmp_path / "a.safetensors")
    loaded = LayerKMeansAttribution.load(tmp_path / "a.safetensors", fitted.model)
    assert loaded.vote == "share"
    assert torch.equal(loaded.classify(images).scores, fitted.classify(images).scores)


def bank_of(attr, membership: torch.Tensor) -> LayerKMeansAttribution:
    """Return a copy whose prototypes, random ones, have these classes."""
    generator = torch.Generator().manual_seed(3)
    books = [
        Codebook(
            torch.rand(len(membership), width, generator=generator),
            membership,
            torch.ones(len(membership), dtype=torch.int64),
            torch.ones(len(membership)),
        )
        for width in (18, 14, 8)
    ]
    other = copy.copy(attr)
    other.own_bank = dataclasses.replace(attr.bank_, codebooks=tuple(books), n_classes=3)
    return other


MANY = {
    "even": lambda k: torch.arange(k) * 3 // k,
    "uneven": lambda k: (torch.arange(k) * 3 // k).clamp_max(1),
    "skewed": lambda k: torch.tensor([0] + [1] * (k - 3) + [2, 2]),
    "descending": lambda k: 2 - torch.arange(k) * 3 // k,
    "mixed": lambda k: torch.arange(k) % 3,
    "one": lambda k: torch.full((k,), 1),
}


@pytest.mark.parametrize("k", [6, 15, 60, 300, 5000])
@pytest.mark.parametrize("kind", MANY)
def test_segments_and_votes_come_from_the_same_scores(fitted, images, kind, k):
    attr = bank_of(fitted, MANY[kind](k))
    found, free = attr.explain(images[:3], target=1), attr.segment(images[:3])
    assert torch.equal(found.segments, free)
    stack, book = attr.read(images[:3]).stack, attr.bank_.codebooks[0]
    scores = stack.scores(book.centroids)
    assert (scores.gather(1, free[:, None]) >= scores.amax(1, keepdim=True) - 1e-5).all()
    squares = stack.squared_norms.unsqueeze(1)
    size = sum(w**2 for w in stack.weights)
    for c in range(3):
        own = scores[:, book.membership == c]
        if not own.shape[1]:
            assert torch.isneginf(found.class_scores[:, c]).all()
            continue
        expected = mean_log_nearness(own.amax(1, keepdim=True), squares, size)
        assert torch.allclose(found.class_scores[:, c], expected[:, 0], atol=1e-5)
    assert torch.equal(found.class_scores, attr.classify(images[:3]).scores)


@pytest.mark.parametrize("k", [6, 60, 300, 3000])
@pytest.mark.parametrize("kind", MANY)
def test_first_of_equal_prototypes_wins_whatever_their_classes(fitted, images, kind, k):
    attr = bank_of(fitted, MANY[kind](k))
    for book in attr.bank_.codebooks:
        book.centroids[k // 2 :] = book.centroids[: k - k // 2]
    assert int(attr.explain(images[:2], target=1).segments.max()) < k // 2


@pytest.mark.parametrize("kind", [name for name in MANY if name != "mixed"])
@pytest.mark.parametrize("k", [15, 300])
def test_pixels_are_scored_once_for_segments_and_vote(fitted, images, kind, k, monkeypatch):
    attr, calls = bank_of(fitted, MANY[kind](k)), []
    best = StackedBlocks.best
    monkeypatch.setattr(
        StackedBlocks, "best", lambda *args: calls.append(args[0].grid) or best(*args)
    )
    attr.explain(images[:2], target=1)
    assert len(calls) == len(set(calls)) == 2
    attr.classify(images[:2])
    assert len(calls) == 3


@pytest.mark.parametrize("classes", [[0, 0, 1, 3], [3, 1, 0, 0], [1, 0, 1, 0], [2, 2, 2, 2]])
def test_best_by_class_is_a_loop_over_classes(classes):
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    scores[0] = 1.0
    best, index = best_by_class(scores, torch.tensor(classes), 5)
    for c in range(5):
        own = [i for i, owner in enumerate(classes) if owner == c]
        if not own:
            assert torch.isneginf(best[:, c]).all()
            assert not index[:, c].any()
            continue
        values, places = scores[:, own].max(1)
        assert torch.equal(best[:, c], values)
        assert torch.equal(index[:, c], torch.tensor(own)[places])


def test_a_vote_of_the_table_is_an_option_at_once(monkeypatch, images, labels, tmp_path):
    def by_closeness(ballot: Ballot):
        own = F.one_hot(ballot.membership[ballot.nearest], ballot.n_classes)
        scores = (own * torch.exp(-ballot.distances).unsqueeze(3)).sum((1, 2))
        return scores, scores.argmax(1)

    monkeypatch.setitem(VOTES, "closeness", Vote(by_closeness))
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2, vote="closeness")
    attr.fit([(images, labels)], n_init=1).save(tmp_path / "bank.safetensors")
    found = attr.classify(images)
    nearness = attr.as_module(images)(images)["class_scores"]
    assert torch.allclose(nearness, found.scores, rtol=1e-4)
    again = LayerKMeansAttribution.load(tmp_path / "bank.safetensors", attr.model)
    assert again.vote == "closeness"
    assert torch.equal(again.explain(images).prediction, found.prediction)
