"""Segment-wise maps add up to the logit, at every depth and size, fitted or not."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import LAYERS, make_net
from torch import Tensor, nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from captum_kmex import ClassifierPrototypes, LayerKMeansAttribution, NotFittedError
from captum_kmex.exceptions import FewRowsWarning, RepresentativesWarning

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")

FITTED = make_net()
GENERATOR_SEED = 5


def make_images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(12) % 3
    x = 0.2 * torch.rand(12, 1, 16, 16, generator=generator)
    for i, c in enumerate(labels.tolist()):
        x[i, 0, 8 * (c // 2) : 8 * (c // 2) + 8, 8 * (c % 2) : 8 * (c % 2) + 8] += 1
    return x, labels


X, Y = make_images()


@pytest.fixture(scope="module")
def bank():
    attr = LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=3)
    return attr.fit([(X, Y)], n_init=3).bank_


@pytest.fixture
def fitted(bank) -> LayerKMeansAttribution:
    attr = LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=3)
    attr.own_bank = bank
    return attr


@pytest.fixture
def unfitted() -> LayerKMeansAttribution:
    return LayerKMeansAttribution(FITTED, LAYERS)


@pytest.fixture(params=["fitted", "unfitted"])
def attr(request) -> LayerKMeansAttribution:
    return request.getfixturevalue(request.param)


def awkward(n: int = 3, size=(33, 47)) -> Tensor:
    return torch.rand(n, 1, *size, generator=torch.Generator().manual_seed(GENERATOR_SEED))


def logits_of(x, net=FITTED) -> Tensor:
    with torch.no_grad():
        return net(x)


def stages(x) -> list[Tensor]:
    with torch.no_grad():
        first = FITTED.stage1(x)
        second = FITTED.stage2(first)
        return [first, second, FITTED.stage3(second)]


def naive_rows(blocks) -> Tensor:
    up = [
        F.interpolate(b, blocks[0].shape[2:], mode="bilinear", align_corners=False) for b in blocks
    ]
    return torch.cat([F.normalize(u, dim=1) for u in up], 1).permute(0, 2, 3, 1)


depths = pytest.mark.parametrize("depth", [0, 1, 2])
sizes = pytest.mark.parametrize("size", [(16, 16), (33, 47), (25, 41)], ids=str)


@depths
@sizes
@pytest.mark.parametrize("connected", [False, True], ids=["whole", "connected"])
def test_map_sums_to_logit_minus_bias(attr, depth, size, connected):
    x = awkward(size=size)
    maps, delta = attr.attribute(
        x, target=1, depth=depth, connected=connected, return_convergence_delta=True
    )
    expected = logits_of(x)[:, 1] - FITTED.head.bias[1].detach()
    scale = logits_of(x).abs().max()
    assert torch.allclose(maps.sum((1, 2, 3)), expected, atol=1e-4 * float(scale))
    assert delta.abs().max() < 1e-4 * scale


def test_map_sums_to_logit_at_97_by_161(attr):
    x = awkward(1, (97, 161))
    maps, delta = attr.attribute(x, return_convergence_delta=True)
    assert maps.shape == (1, 1, 97, 161)
    assert delta.abs().max() < 1e-4 * logits_of(x).abs().max()


@pytest.mark.parametrize(
    ("depth", "grid"), [(0, (33, 47)), (1, (17, 24)), (-2, (17, 24)), (2, (9, 12)), (-1, (9, 12))]
)
def test_map_has_grid_of_its_depth(attr, depth, grid):
    assert attr.attribute(awkward(), depth=depth).shape == (3, 1, *grid)


@pytest.mark.parametrize("position", range(3))
def test_depth_by_name_equals_depth_by_position(attr, position):
    by_name = attr.attribute(awkward(), target=0, depth=LAYERS[position])
    assert torch.equal(by_name, attr.attribute(awkward(), target=0, depth=position))


@pytest.mark.parametrize("depth", [3, -4, "head", None], ids=str)
def test_depth_that_is_no_layer_raises(attr, depth):
    with pytest.raises(ValueError, match="is not one of the 3 layers"):
        attr.attribute(X, depth=depth)


def test_deepest_map_is_the_heads_map(attr):
    expected = ClassifierPrototypes(FITTED).attribute(awkward(), target=2)
    assert torch.allclose(attr.attribute(awkward(), target=2, depth=-1), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("depth", "average_top"),  # the deepest map is the head's own, unless averaged
    [(0, False), (1, False), (0, True), (1, True), (2, True)],
)
@pytest.mark.parametrize("connected", [False, True], ids=["whole", "connected"])
def test_map_is_constant_in_each_segment(attr, depth, average_top, connected):
    attr.average_top = average_top
    x = awkward()
    maps = attr.attribute(x, target=0, depth=depth, connected=connected)
    segments = attr.segment(x, target=0, depth=depth, connected=connected)
    for image, labels in zip(maps[:, 0], segments, strict=True):
        for s in labels.unique():
            values = image[labels == s]
            assert values.max() == values.min()


def test_average_top_averages_the_heads_map(attr):
    attr.average_top = True
    x = awkward()
    found = attr.attribute(x, target=0, depth=-1)
    plain = ClassifierPrototypes(FITTED).attribute(x, target=0)
    segments = attr.segment(x, depth=-1)
    for i in range(3):
        for s in segments[i].unique():
            mean = plain[i, 0][segments[i] == s].mean()
            assert torch.allclose(found[i, 0][segments[i] == s], mean, atol=1e-7)


@depths
def test_average_top_keeps_the_sum(attr, depth):
    attr.average_top = True
    _, delta = attr.attribute(awkward(), depth=depth, return_convergence_delta=True)
    assert delta.abs().max() < 1e-5


def test_map_equals_three_steps_by_hand(fitted):
    """Upsample, restore the mean, average in segments; from stage3 to stage1."""
    x = awkward(1)
    density = ClassifierPrototypes(FITTED).attribute(x, target=1) * (9 * 12)
    for depth, size in ((1, (17, 24)), (0, (33, 47))):
        mean = density.mean()
        density = F.interpolate(density, size, mode="bilinear", align_corners=False)
        density = density + mean - density.mean()
        segments = fitted.segment(x, depth=depth)[0]
        for s in segments.unique():
            density[0, 0][segments == s] = density[0, 0][segments == s].mean()
    found = fitted.attribute(x, target=1)
    assert torch.allclose(found, density / (33 * 47), atol=1e-7)


@depths
def test_segments_are_nearest_prototypes_of_naive_composite(fitted, bank, depth):
    rows = naive_rows(stages(X)[depth:])
    expected = torch.cdist(rows.flatten(0, 2), bank.codebooks[depth].centroids)
    found = fitted.segment(X, depth=depth).flatten()
    chosen = expected.gather(1, found[:, None]).squeeze(1)
    # where two prototypes are equally near to rounding, either will do
    assert torch.allclose(chosen, expected.amin(1), atol=1e-4)


@depths
def test_class_scores_equal_pixel_count(fitted, bank, depth):
    owners = bank.codebooks[depth].membership[fitted.segment(X, depth=depth)].flatten(1)
    expected = F.one_hot(owners, 3).float().mean(1)
    fitted.vote = "share"
    found = fitted.classify(X, depth=depth)
    assert torch.allclose(found.scores, expected, atol=1e-6)
    assert torch.allclose(found.logits, logits_of(X), atol=1e-6)


@depths
@pytest.mark.parametrize("vote", ["distance", "share"])
def test_predict_is_class_of_highest_score(fitted, depth, vote):
    fitted.vote = vote
    scores = fitted.classify(X, depth=depth).scores
    found = fitted.predict(X, depth=depth)
    assert torch.equal(scores.gather(1, found[:, None]).squeeze(1), scores.amax(1))


def test_contrast_is_difference_of_two_maps_of_same_segments(attr):
    x = awkward()
    found = attr.attribute(x, target=0, contrast=2)
    expected = attr.attribute(x, target=0) - attr.attribute(x, target=2)
    assert torch.allclose(found, expected, atol=1e-6)


def test_contrast_sums_to_difference_of_logits(attr):
    _, delta = attr.attribute(awkward(), target=0, contrast=2, return_convergence_delta=True)
    assert delta.abs().max() < 1e-5


@depths
def test_batch_equals_images_one_by_one(attr, depth):
    x = awkward(4)
    maps, segments = attr.attribute(x, target=1, depth=depth), attr.segment(x, depth=depth)
    for i in range(4):
        alone = attr.attribute(x[i : i + 1], target=1, depth=depth)[0]
        assert torch.allclose(alone, maps[i], atol=1e-6)
        assert torch.equal(attr.segment(x[i : i + 1], depth=depth)[0], segments[i])


def test_permuted_batch_permutes_maps(attr):
    x, order = awkward(5), torch.tensor([3, 0, 4, 2, 1])
    maps = attr.attribute(x, target=1)
    assert torch.allclose(attr.attribute(x[order], target=1), maps[order], atol=1e-6)


def test_permuted_batch_permutes_predictions(fitted):
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fitted.predict(X[order]), fitted.predict(X)[order])


@pytest.mark.parametrize("target", [0, 2])
def test_restriction_uses_only_prototypes_of_explained_class(fitted, bank, target):
    segments = fitted.segment(X, target=target, restrict="predicted")
    assert bank.codebooks[0].membership[segments].unique().tolist() == [target]


def test_restriction_keeps_completeness(fitted):
    _, delta = fitted.attribute(X, restrict="predicted", return_convergence_delta=True)
    assert delta.abs().max() < 1e-5


def test_restriction_leaves_class_scores_free(fitted):
    found = fitted.explain(X, restrict="predicted")
    assert found.restricted
    assert torch.equal(found.class_scores, fitted.classify(X).scores)
    assert torch.equal(found.prediction, fitted.predict(X))


def test_restriction_needs_a_fit(unfitted):
    with pytest.raises(NotFittedError, match=r"call fit\(loader\) first"):
        unfitted.attribute(X, restrict="predicted")


def test_restriction_at_the_top_needs_a_fit_too(unfitted):
    with pytest.raises(NotFittedError, match=r"call fit\(loader\) first"):
        unfitted.attribute(X, depth=-1, restrict="predicted")


@depths
def test_unknown_restriction_raises(attr, depth):
    with pytest.raises(ValueError, match="restrict='target' is unknown"):
        attr.attribute(X, depth=depth, restrict="target")


def test_connected_segments_refine_segments(attr):
    x = awkward(2)
    parts, whole = attr.segment(x, connected=True), attr.segment(x)
    for i in range(2):
        for s in parts[i].unique():
            assert len(whole[i][parts[i] == s].unique()) == 1


@sizes
@pytest.mark.parametrize("channels", [1, 3])
def test_upsampled_map_has_shape_and_sum(size, channels):
    net = make_net(channels=channels)
    x = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0))
    attr = LayerKMeansAttribution(net, ["stage2", "stage3"])
    maps, delta = attr.attribute(x, upsample="input", return_convergence_delta=True)
    assert maps.shape == x.shape
    assert delta.abs().max() < 1e-5


def test_alignment_map_is_logit_map_over_squared_norm(attr):
    x = awkward()
    logit = attr.attribute(x, target=2)
    alignment = attr.attribute(x, target=2, units="alignment")
    norm = FITTED.head.weight[2].detach().square().sum()
    assert torch.allclose(alignment * norm / (33 * 47), logit, atol=1e-7)


def test_one_cluster_gives_a_flat_map():
    attr = LayerKMeansAttribution(FITTED, ["stage1", "stage3"], n_clusters=1)
    maps = attr.attribute(X, target=0)
    expected = (logits_of(X)[:, 0] - FITTED.head.bias[0].detach()) / 256
    assert torch.allclose(maps, expected[:, None, None, None].expand_as(maps), atol=1e-7)


def test_one_prototype_is_the_mean_row_of_its_class():
    attr = LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=1).fit([(X, Y)])
    for depth, book in enumerate(attr.bank_.codebooks):
        rows = naive_rows(stages(X)[depth:])
        for c in range(3):
            expected = rows[c == Y].flatten(0, 2).mean(0)
            assert torch.allclose(book.centroids[c], expected, atol=1e-5)


def test_prototypes_follow_dict():
    attr = LayerKMeansAttribution(FITTED, LAYERS, n_prototypes={0: 1, 1: 3, 2: 2})
    bank = attr.fit([(X, Y)], n_init=1).bank_
    assert [book.membership.tolist() for book in bank.codebooks] == [[0, 1, 1, 1, 2, 2]] * 3
    _, delta = attr.attribute(awkward(), return_convergence_delta=True)
    assert delta.abs().max() < 1e-5


def test_counts_of_clusters_add_up_to_rows_kept(bank):
    kept = bank.provenance["rows_kept"]
    counts = bank.codebooks[0].counts
    assert [int(counts[bank.codebooks[0].membership == c].sum()) for c in range(3)] == kept
    assert bank.provenance["rows_seen"] == [4 * 256] * 3


def test_fit_keeps_no_more_rows_than_its_budget():
    attr = LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=2)
    row_bytes = 4 * (18 + 14 + 8)
    attr.fit([(X, Y)], memory_budget=int(3 * 1.25 * row_bytes * 50))
    assert attr.bank_.provenance["rows_kept"] == [50] * 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: [(X[i : i + 1], Y[i : i + 1]) for i in range(12)],
        lambda: [(X[:7], Y[:7]), (X[7:], Y[7:])],
        lambda: DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True),
        lambda: DataLoader(
            TensorDataset(X, Y), batch_size=4, sampler=SubsetRandomSampler(range(12))
        ),
    ],
    ids=["ones", "uneven", "shuffled", "sampler"],
)
def test_fit_does_not_depend_on_batches(bank, make):
    found = LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=3).fit(make(), n_init=3).bank_
    for ours, theirs in zip(found.codebooks, bank.codebooks, strict=True):
        assert torch.allclose(ours.centroids, theirs.centroids, atol=1e-4)
        assert torch.equal(ours.representatives.indices, theirs.representatives.indices)


def test_fit_repeats_itself_for_a_seed():
    first, second = (
        LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=2, seed=4).fit([(X, Y)], n_init=2).bank_
        for _ in range(2)
    )
    for ours, theirs in zip(first.codebooks, second.codebooks, strict=True):
        assert torch.equal(ours.centroids, theirs.centroids)


def test_fit_to_predictions_equals_fit_to_same_labels():
    predicted = logits_of(X).argmax(1)
    present = predicted.unique().tolist()
    ours = LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=2)
    ours.fit([X], labels="predicted", n_init=2)
    theirs = LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=2)
    theirs.fit([(X, predicted)], classes=present, n_init=2)
    for a, b in zip(ours.bank_.codebooks, theirs.bank_.codebooks, strict=True):
        assert torch.equal(a.membership, b.membership)
        assert torch.allclose(a.centroids, b.centroids, atol=1e-5)


def test_class_agnostic_fit_gives_each_cluster_a_distribution():
    attr = LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=4).fit([X], labels=None)
    for book in attr.bank_.codebooks:
        assert book.membership.shape == (4, 3)
        assert torch.allclose(book.membership.sum(1), torch.ones(4), atol=1e-6)


def test_class_agnostic_distribution_counts_predictions():
    attr = LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=4).fit([X], labels=None)
    predicted = F.one_hot(logits_of(X).argmax(1), 3).float()
    segments = attr.segment(X)
    for k in range(4):
        inside = (segments == k).flatten(1).sum(1).float()
        expected = inside @ predicted / inside.sum()
        # k-means stops within its tolerance: a few pixels may lie on the other side
        assert torch.allclose(attr.bank_.codebooks[0].membership[k], expected, atol=0.02)


def test_class_agnostic_prediction_and_map_work():
    attr = LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=4).fit([X], labels=None)
    _, delta = attr.attribute(X, return_convergence_delta=True)
    assert delta.abs().max() < 1e-5
    scores = attr.classify(X).scores
    assert torch.allclose(scores.sum(1), torch.ones(12), atol=1e-5)
    with pytest.raises(ValueError, match="restrict needs a class-wise fit"):
        attr.attribute(X, restrict="predicted")


def test_multi_hot_fit_counts_an_image_for_each_class():
    hot = F.one_hot(Y, 3)
    hot[:, 0] = 1
    attr = LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=1).fit([(X, hot)])
    assert attr.bank_.provenance["rows_seen"] == [12 * 256, 4 * 256, 4 * 256]
    expected = naive_rows(stages(X)).flatten(0, 2).mean(0)
    assert torch.allclose(attr.bank_.codebooks[0].centroids[0], expected, atol=1e-5)


def test_representatives_belong_to_their_class(bank):
    for book in bank.codebooks:
        found = book.representatives.indices
        assert torch.equal(Y[found[:, :4]], book.membership[:, None].expand(-1, 4))
        assert (found[:, 4:] == -1).all()


def test_representatives_equal_brute_force(bank):
    book = bank.codebooks[1]
    rows = naive_rows(stages(X)[1:]).flatten(1, 2)
    far = torch.cdist(rows, book.centroids.expand(12, -1, -1)).amin(1)
    for k, c in enumerate(book.membership.tolist()):
        own = (c == Y).nonzero().squeeze(1)
        found = book.representatives
        assert torch.allclose(found.distances[k, :4], far[own, k].sort().values, atol=1e-3)


def test_fit_without_representatives_makes_one_pass():
    attr = LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=1)
    attr.fit(iter([(X, Y)]), n_representatives=0)
    assert attr.bank_.codebooks[0].representatives is None


def test_exact_patch_search_on_generator_warns_about_representatives():
    attr = LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=1)
    with pytest.warns(RepresentativesWarning, match="the loader can be read only once"):
        attr.fit(iter([(X, Y)]), patch_search="exact")
    assert attr.bank_.codebooks[0].representatives is None


def test_patches_of_a_generator_are_those_of_an_exact_search_where_all_rows_are_kept():
    once, twice = (LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=2) for _ in range(2))
    once.fit(iter([(X, Y)]), n_init=2)
    twice.fit([(X, Y)], n_init=2, patch_search="exact")
    for ours, theirs in zip(once.bank_.codebooks, twice.bank_.codebooks, strict=True):
        mine, other = ours.representatives, theirs.representatives
        assert torch.equal(mine.indices, other.indices)
        assert torch.equal(mine.boxes, other.boxes)
        # of the exact search, roots of differences of rounded squares
        assert torch.allclose(mine.distances, other.distances, atol=1e-3)


def test_fit_warns_about_few_rows():
    with pytest.warns(FewRowsWarning, match="kept fewer than 10 feature vectors a prototype"):
        LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=7).fit([(X, Y)], n_init=1)


def test_fit_reads_layers_at_their_input():
    at_input = LayerKMeansAttribution(FITTED, ["stage2", "stage3"], n_prototypes=2)
    at_input.fit([(X, Y)], attribute_to_layer_input=True, n_init=2)
    at_output = LayerKMeansAttribution(FITTED, ["stage1", "stage2"], n_prototypes=2)
    at_output.fit([(X, Y)], n_init=2)
    for a, b in zip(at_input.bank_.codebooks, at_output.bank_.codebooks, strict=True):
        assert torch.equal(a.centroids, b.centroids)
    assert torch.equal(at_input.predict(X), at_output.predict(X))


def test_failing_refit_keeps_earlier_bank(fitted, bank):
    with pytest.raises(ValueError, match="label 7 is out of range"):
        fitted.fit([(X, Y), (X, Y + 7)])
    assert fitted.bank_ is bank


def test_interrupted_refit_keeps_earlier_bank(fitted, bank):
    def broken():
        yield X, Y
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=""):
        fitted.fit(broken())
    assert fitted.bank_ is bank


@pytest.mark.parametrize("method", ["predict", "classify", "save"])
def test_unfitted_raises_where_prototypes_are_needed(unfitted, method):
    with pytest.raises(NotFittedError, match=r"not fitted, and what was asked for needs its proto"):
        getattr(unfitted, method)(X)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (list, {}, "the loader yielded no batch"),
        (lambda: [X], {}, "the loader yields no labels"),
        (lambda: [(X, Y)], {"labels": "truth"}, "labels='truth' is unknown"),
        (lambda: [(X, Y % 2)], {}, r"1 of 3 classes without samples \(the first: \[2\]\)"),
        (lambda: [(X, Y)], {"classes": [3]}, "classes holds 3, out of range for 3 logits"),
        (lambda: [(X, Y)], {"memory_budget": 1}, "memory_budget=1 bytes is less than one row"),
        (lambda: [(X[0], Y)], {}, "inputs must be images"),
        (lambda: [(X * float("nan"), Y)], {}, "layer 'stage1' holds NaN or Inf"),
    ],
    ids=["empty", "unlabelled", "labels", "missing", "classes", "memory", "image", "nan"],
)
def test_fit_raises(unfitted, make, options, message):
    with pytest.raises(ValueError, match=message):
        unfitted.fit(make(), **options)


def test_fit_raises_when_fewer_vectors_than_prototypes():
    attr = LayerKMeansAttribution(FITTED, ["stage3"], n_prototypes=70)
    with pytest.raises(ValueError, match="fit saw 64 feature vectors of class 0, fewer than n_"):
        attr.fit([(X, Y)], n_init=1)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["stage9"], "layer 'stage9' is not in the model"),
        ([], "layers must be distinct and at least one"),
        (["stage1", "stage1"], "layers must be distinct and at least one"),
        (["stage3", "stage1"], "layers must stand shallow to deep"),
        (["stage1", "head"], "layer 'head' returned shape .* no grid"),
    ],
    ids=["unknown", "none", "twice", "order", "no_grid"],
)
@pytest.mark.parametrize("call", ["attribute", "fit"])
def test_bad_layers_raise(layers, message, call):
    attr = LayerKMeansAttribution(FITTED, layers)
    with pytest.raises(ValueError, match=message):
        attr.attribute(X) if call == "attribute" else attr.fit([(X, Y)], n_init=1)


def test_bank_of_other_layers_is_refused(fitted):
    fitted.layers = ["stage2", "stage3"]
    with pytest.raises(ValueError, match=r"fitted on layers .*this object has \['stage2', 'stage3"):
        fitted.attribute(X)


def test_inputs_far_outside_those_of_the_fit_raise(fitted):
    with pytest.raises(ValueError, match=r"inputs range from .* preprocess them"):
        fitted.attribute(255 * X)


def test_class_without_prototypes_cannot_be_restricted_to():
    attr = LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=1)
    attr.fit([(X, Y)], classes=[0, 1])
    with pytest.raises(ValueError, match=r"class 2 has no prototypes; the bank has classes \[0, 1"):
        attr.attribute(X, target=2, restrict="predicted")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": "watts"}, "units='watts' is unknown"),
        ({"upsample": "image"}, "upsample='image' is unknown"),
        ({"units": "alignment", "contrast": 1}, "contrast needs units='logit'"),
        ({"units": "alignment", "return_convergence_delta": True}, "needs units='logit'"),
        ({"target": 5}, "target 5 is out of range for 3 logits"),
    ],
    ids=["units", "upsample", "contrast", "delta", "target"],
)
def test_attribute_raises_for_bad_options(attr, options, message):
    with pytest.raises(ValueError, match=message):
        attr.attribute(X, **options)


def test_weighting_changes_segments_not_sums():
    loud = LayerKMeansAttribution(FITTED, LAYERS, weighting=[100.0, 1.0, 1.0])
    plain = LayerKMeansAttribution(FITTED, LAYERS)
    assert not torch.equal(loud.segment(X), plain.segment(X))
    _, delta = loud.attribute(X, return_convergence_delta=True)
    assert delta.abs().max() < 1e-5


@pytest.fixture
def doubling() -> nn.Sequential:
    """A net of widths 3, 7 and 15, whose nave weights 1, 1/2 and 1/4 round nothing."""
    torch.manual_seed(0)
    stages = [
        nn.Sequential(nn.Conv2d(a, b, 3, 1, 1), nn.ReLU()) for a, b in ((1, 3), (3, 7), (7, 15))
    ]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(15, 3)).eval()


@pytest.mark.parametrize("is_fitted", [True, False], ids=["fitted", "unfitted"])
@pytest.mark.parametrize("depth", [1, 2])
def test_nave_weights_of_a_suffix_change_nothing_but_its_scale(doubling, depth, is_fitted):
    names = ["0", "1", "2"]
    whole, part = (
        LayerKMeansAttribution(doubling, layers, n_prototypes=2, weighting="nave")
        for layers in (names, names[depth:])
    )
    if is_fitted:
        for attr in (whole, part):
            attr.fit([(X, Y)], n_init=2, n_representatives=0)
        assert whole.bank_.weights == (1.0, 0.5, 0.25)
        assert part.bank_.weights == (1.0, 0.5, 0.25)[: 3 - depth]
        scores = whole.classify(X, depth=depth).scores
        torch.testing.assert_close(scores, part.classify(X).scores, rtol=0, atol=1e-5)
    assert torch.equal(whole.segment(X, depth=depth), part.segment(X))
    torch.testing.assert_close(whole.attribute(X, depth=depth), part.attribute(X))


def test_one_layer_may_be_given_alone():
    alone = LayerKMeansAttribution(FITTED, FITTED.stage3).attribute(X, target=0)
    listed = LayerKMeansAttribution(FITTED, ["stage3"]).attribute(X, target=0)
    assert torch.equal(alone, listed)


def test_unfitted_use_leaves_global_rng_untouched(unfitted):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    unfitted.attribute(X)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_float64_model_gives_float64_map():
    attr = LayerKMeansAttribution(make_net().double(), LAYERS)
    maps, delta = attr.attribute(awkward().double(), return_convergence_delta=True)
    assert maps.dtype == torch.float64
    assert delta.abs().max() < 1e-12


def test_float64_model_can_be_fitted():
    attr = LayerKMeansAttribution(make_net().double(), LAYERS, n_prototypes=2)
    attr.fit([(X.double(), Y)], n_init=1)
    _, delta = attr.attribute(X.double(), return_convergence_delta=True)
    assert delta.abs().max() < 1e-12


def test_bfloat16_model_is_explained_within_its_digits():
    net = make_net().bfloat16()
    x = awkward().bfloat16()
    _, delta = LayerKMeansAttribution(net, LAYERS).attribute(x, return_convergence_delta=True)
    assert delta.abs().max() < 8 * 2**-8 * logits_of(x, net).abs().max()


def test_autocast_does_not_change_explanations_arithmetic(attr):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps, delta = attr.attribute(X, return_convergence_delta=True)
    assert maps.dtype == torch.float32
    assert delta.abs().max() < 8 * 2**-8 * logits_of(X).abs().max()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copy_gives_same_map(attr, duplicate):
    expected = attr.attribute(X, target=0)
    assert torch.equal(duplicate(attr).attribute(X, target=0), expected)


def test_delta_of_own_map_is_zero(attr):
    maps = attr.attribute(X, target=1, contrast=0)
    delta = attr.compute_convergence_delta(maps, X, target=1, contrast=0)
    assert delta.abs().max() < 1e-5


class MlpNet(nn.Module):
    """Two stages and an MLP head, which is not affine in the map."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.pool(self.stage2(self.stage1(x))))


@pytest.fixture
def mlp() -> LayerKMeansAttribution:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = MlpNet().eval()
    return LayerKMeansAttribution(net, ["stage1", "stage2"], n_prototypes=2)


def test_model_without_linear_head_needs_a_fit_for_maps_of_a_ridge_head(mlp):
    mlp.surrogate = "ridge"
    with pytest.raises(
        NotFittedError, match=r"further layers.*ridge surrogate of the logits is used, which"
    ):
        mlp.attribute(X)


def test_model_without_linear_head_is_segmented_at_once(mlp):
    assert mlp.segment(X).shape == (12, 16, 16)


def test_surrogate_reports_its_r2(mlp):
    mlp.fit([(X[:5], Y[:5]), (X[5:], Y[5:])])
    found = mlp.bank_.surrogate
    with torch.no_grad():
        net = mlp.model
        pooled, logits = net.stage2(net.stage1(X)).mean((2, 3)), net(X)
    residual = logits - pooled @ found.columns.T - found.bias
    expected = 1 - residual.square().sum() / (logits - logits.mean(0)).square().sum()
    assert found.layer == "stage2"
    assert found.r2 == pytest.approx(float(expected), abs=1e-3)


@pytest.mark.parametrize("depth", [0, 1])
def test_surrogate_delta_is_what_it_misses_of_the_logit(mlp, depth):
    mlp.fit([(X, Y)], n_init=1)
    maps, delta = mlp.attribute(X, target=1, depth=depth, return_convergence_delta=True)
    found = mlp.bank_.surrogate
    with torch.no_grad():
        net = mlp.model
        ours = net.stage2(net.stage1(X)).mean((2, 3)) @ found.columns[1] + found.bias[1]
        missed = ours - net(X)[:, 1]
    assert torch.allclose(maps.sum((1, 2, 3)) + found.bias[1], ours, atol=1e-5)
    assert torch.allclose(delta, missed, atol=1e-5)


def test_surrogate_survives_save_and_load(mlp, tmp_path):
    mlp.fit([(X, Y)], n_init=1)
    mlp.save(tmp_path / "bank")
    loaded = LayerKMeansAttribution.load(tmp_path / "bank", mlp.model)
    assert torch.equal(loaded.attribute(X, target=1), mlp.attribute(X, target=1))
    assert loaded.bank_.surrogate.r2 == mlp.bank_.surrogate.r2


def test_linear_head_needs_no_surrogate(bank):
    assert bank.surrogate is None


def test_weighting_that_is_not_given_is_dimension_before_a_fit():
    x = awkward()
    given = LayerKMeansAttribution(FITTED, LAYERS, weighting="dimension", n_clusters=20)
    other = LayerKMeansAttribution(FITTED, LAYERS, weighting="balanced", n_clusters=20)
    segments = LayerKMeansAttribution(FITTED, LAYERS).segment(x)
    assert torch.equal(segments, given.segment(x))
    assert not torch.equal(segments, other.segment(x))


def test_weighting_that_is_not_given_is_balanced_in_a_fit(tmp_path):
    attr = LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=2)
    given = LayerKMeansAttribution(FITTED, LAYERS, n_prototypes=2, weighting="balanced")
    banks = [attr.fit([(X, Y)], n_init=2).bank_, given.fit([(X, Y)], n_init=2).bank_]
    assert banks[0].weights == banks[1].weights == (1.0,) * len(LAYERS)
    assert torch.equal(banks[0].codebooks[0].centroids, banks[1].codebooks[0].centroids)
    attr.save(tmp_path / "bank.safetensors")
    loaded = LayerKMeansAttribution.load(tmp_path / "bank.safetensors", FITTED)
    assert loaded.weighting is None
    assert torch.equal(loaded.segment(X), attr.segment(X))
    # a bank's weights hold for as long as it does, whatever is clustered without one
    assert torch.equal(attr.fit([(X, Y)], n_init=2).segment(X), loaded.segment(X))
