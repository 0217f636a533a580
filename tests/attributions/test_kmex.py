"""KMEx: nearest centroid of pooled embeddings, and its exact evidence."""

from __future__ import annotations

import pytest
import torch
from nets import make_net
from sklearn.cluster import KMeans
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_kmex import HeadNotFoundError, KMExAttribution, NotFittedError

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")


@pytest.fixture
def attr(net, images, labels) -> KMExAttribution:
    return KMExAttribution(net, n_prototypes=2).fit([(images, labels)])


@pytest.fixture
def queries() -> Tensor:
    return torch.rand(9, 1, 33, 47, generator=torch.Generator().manual_seed(8))


def features_of(net, x) -> Tensor:
    with torch.no_grad():
        return net.stage3(net.stage2(net.stage1(x)))


def squared_distances(attr, net, x) -> Tensor:
    pooled = features_of(net, x).double().mean((2, 3))
    return (pooled[:, None] - attr.prototypes.double()).square().sum(2)


def class_distances(attr, net, x) -> Tensor:
    far = squared_distances(attr, net, x)
    classes = attr.prototype_classes
    return torch.stack([far[:, classes == c].amin(1) for c in range(3)], 1)


def test_one_prototype_is_the_class_mean(net, images, labels):
    attr = KMExAttribution(net, n_prototypes=1).fit([(images, labels)])
    pooled = features_of(net, images).mean((2, 3))
    for c in range(3):
        assert torch.allclose(attr.prototypes[c], pooled[labels == c].mean(0), atol=1e-6)


def test_prototypes_have_inertia_of_sklearn(net, images, labels, attr):
    pooled = features_of(net, images).mean((2, 3)).double()
    for c in range(3):
        rows = pooled[labels == c]
        own = attr.prototypes[attr.prototype_classes == c].double()
        found = torch.cdist(rows, own).amin(1).square().sum()
        expected = KMeans(2, n_init=10, random_state=0).fit(rows.numpy()).inertia_
        assert found <= 1.01 * expected + 1e-9


def test_prototype_classes_follow_dict(net, images, labels):
    counts = {0: 1, 1: 3, 2: 2}
    attr = KMExAttribution(net, n_prototypes=counts).fit([(images, labels)])
    assert attr.prototype_classes.tolist() == [0, 1, 1, 1, 2, 2]


def test_predict_equals_sklearn_nearest_centroid(net, attr, queries):
    knn = KNeighborsClassifier(1).fit(attr.prototypes.numpy(), attr.prototype_classes.numpy())
    expected = knn.predict(features_of(net, queries).mean((2, 3)).numpy())
    assert attr.predict(queries).tolist() == expected.tolist()


def test_predict_survives_underflow_of_similarity(images, labels):
    net = make_net()
    with torch.no_grad():
        net.stage3[0].weight.mul_(1e5)
        net.stage3[0].bias.mul_(1e5)
    attr = KMExAttribution(net, n_prototypes=2).fit([(images, labels)])
    queries = torch.rand(9, 1, 16, 16, generator=torch.Generator().manual_seed(8))
    assert (attr.similarity(queries) == 0).any(1).all()
    knn = KNeighborsClassifier(1).fit(attr.prototypes.numpy(), attr.prototype_classes.numpy())
    expected = knn.predict(features_of(net, queries).mean((2, 3)).numpy())
    assert attr.predict(queries).tolist() == expected.tolist()


def test_similarity_is_exp_of_minus_distance(net, attr, queries):
    expected = (-squared_distances(attr, net, queries).sqrt()).exp()
    assert torch.allclose(attr.similarity(queries).double(), expected, atol=1e-6)


def test_scores_are_minus_distance_to_each_class(net, attr, queries):
    found = attr.classify(queries)
    expected = -class_distances(attr, net, queries).sqrt()
    assert torch.allclose(found.scores.double(), expected, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(found.logits, net(queries), atol=1e-6)


@pytest.mark.parametrize("target", range(3))
def test_distance_map_sums_to_squared_distance(net, attr, queries, target):
    maps, delta = attr.attribute(
        queries, target=target, units="distance", return_convergence_delta=True
    )
    expected = class_distances(attr, net, queries)[:, target]
    assert torch.allclose(maps.double().sum((1, 2, 3)), expected, atol=1e-6)
    assert delta.abs().max() < 1e-6


@pytest.mark.parametrize("target", range(3))
def test_margin_map_sums_to_margin_over_all_other_classes(net, attr, queries, target):
    maps, delta = attr.attribute(queries, target=target, return_convergence_delta=True)
    far = class_distances(attr, net, queries)
    others = far[:, [c for c in range(3) if c != target]].amin(1)
    assert torch.allclose(maps.double().sum((1, 2, 3)), others - far[:, target], atol=1e-6)
    assert delta.abs().max() < 1e-6


@pytest.mark.parametrize("contrast", [0, 2])
def test_contrast_map_sums_to_margin_over_that_class(net, attr, queries, contrast):
    maps = attr.attribute(queries, target=1, contrast=contrast)
    far = class_distances(attr, net, queries)
    expected = far[:, contrast] - far[:, 1]
    assert torch.allclose(maps.double().sum((1, 2, 3)), expected, atol=1e-6)


def test_contrast_swaps_sign_with_its_classes(attr, queries):
    ours = attr.attribute(queries, target=0, contrast=2)
    assert torch.allclose(ours, -attr.attribute(queries, target=2, contrast=0), atol=1e-6)


def test_positive_margin_means_predicted_class(attr, queries):
    margins = torch.stack([attr.attribute(queries, target=c).sum((1, 2, 3)) for c in range(3)], 1)
    assert torch.equal(margins.argmax(1), attr.predict(queries))
    assert torch.equal((margins > 0).sum(1), torch.ones(9, dtype=torch.int64))


def test_margin_map_equals_formula_at_each_pixel(net, attr, images):
    maps = attr.attribute(images[:1], target=0, contrast=1)[0, 0]
    far = squared_distances(attr, net, images[:1])[0]
    near = {c: int(far.masked_fill(attr.prototype_classes != c, 1e9).argmin()) for c in (0, 1)}
    a, b = attr.prototypes[near[0]], attr.prototypes[near[1]]
    h = features_of(net, images[:1])[0]
    expected = 2 * torch.einsum("dhw,d->hw", h - ((a + b) / 2)[:, None, None], a - b) / 16
    assert torch.allclose(maps, expected, atol=1e-6)


@pytest.mark.parametrize("units", ["margin", "distance"])
def test_upsampled_map_has_shape_and_sum(attr, queries, units):
    maps, delta = attr.attribute(
        queries, target=0, units=units, upsample="input", return_convergence_delta=True
    )
    assert maps.shape == queries.shape
    assert delta.abs().max() < 1e-5


def test_delta_of_own_map_is_zero(attr, queries):
    maps = attr.attribute(queries, target=1, contrast=0)
    delta = attr.compute_convergence_delta(maps, queries, target=1, contrast=0)
    assert delta.abs().max() < 1e-6


def test_batch_equals_images_one_by_one(attr, queries):
    maps = attr.attribute(queries, target=1)
    for i in range(len(queries)):
        alone = attr.attribute(queries[i : i + 1], target=1)[0]
        assert torch.allclose(alone, maps[i], atol=1e-6)


def test_permuted_batch_permutes_results(attr, queries):
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    maps = attr.attribute(queries, target=1)
    assert torch.allclose(attr.attribute(queries[order], target=1), maps[order], atol=1e-6)
    assert torch.equal(attr.predict(queries[order]), attr.predict(queries)[order])


@pytest.mark.parametrize("batch", [1, 5, 12])
@pytest.mark.parametrize("shuffle", [False, True], ids=["ordered", "shuffled"])
def test_fit_does_not_depend_on_batches(net, images, labels, attr, batch, shuffle):
    loader = DataLoader(TensorDataset(images, labels), batch_size=batch, shuffle=shuffle)
    found = KMExAttribution(net, n_prototypes=2).fit(loader)
    assert torch.allclose(found.prototypes, attr.prototypes, atol=1e-6)
    expected = attr.bank_.codebooks[0].representatives
    assert torch.equal(found.bank_.codebooks[0].representatives.indices, expected.indices)


def test_fit_repeats_itself_for_a_seed(net, images, labels):
    first, second = (
        KMExAttribution(net, n_prototypes=2, seed=3).fit([(images, labels)]) for _ in range(2)
    )
    assert torch.equal(first.prototypes, second.prototypes)


def test_fit_to_predictions_needs_no_labels(net, images):
    with torch.no_grad():
        predicted = net(images).argmax(1)
    attr = KMExAttribution(net, n_prototypes=1).fit([images], labels="predicted")
    assert attr.prototype_classes.tolist() == predicted.unique().tolist()


def test_fit_to_multi_hot_labels_counts_an_image_for_each_class(net, images):
    hot = torch.zeros(12, 3)
    hot[:, 0] = 1
    hot[::2, 1] = hot[1::2, 2] = 1
    attr = KMExAttribution(net, n_prototypes=1).fit([(images, hot)])
    pooled = features_of(net, images).mean((2, 3))
    for c in range(3):
        assert torch.allclose(attr.prototypes[c], pooled[hot[:, c] == 1].mean(0), atol=1e-6)


def test_fit_of_some_classes_leaves_others_out(net, images, labels):
    attr = KMExAttribution(net, n_prototypes=1).fit([(images, labels)], classes=[0, 2])
    assert attr.prototype_classes.tolist() == [0, 2]
    assert set(attr.predict(images).tolist()) <= {0, 2}
    with pytest.raises(ValueError, match=r"class 1 has no prototypes; the bank has classes \[0, 2"):
        attr.attribute(images, target=1)


def test_representatives_are_nearest_images_of_the_class(net, images, labels, attr):
    found = attr.representatives
    far = squared_distances(attr, net, images)
    for k, c in enumerate(attr.prototype_classes.tolist()):
        own = (labels == c).nonzero().squeeze(1)
        expected = own[far[own, k].argsort()]
        assert found.indices[k, :4].tolist() == expected.tolist()
        assert found.indices[k, 4:].tolist() == [-1]
        assert found.boxes[k, 0].tolist() == [0, 0, 16, 16]


def test_representatives_name_an_image_once_when_the_sampler_repeats_it(net, images, labels):
    twice = DataLoader(TensorDataset(images, labels), batch_size=5, sampler=[*range(12)] * 2)
    attr = KMExAttribution(net, n_prototypes=1).fit(twice)
    for row in attr.bank_.codebooks[0].representatives.indices.tolist():
        named = [index for index in row if index >= 0]
        assert len(named) == len(set(named))


def test_layer_is_pooled_instead_of_tap(net, images, labels):
    attr = KMExAttribution(net, "stage2", n_prototypes=1).fit([(images, labels)])
    with torch.no_grad():
        pooled = net.stage2(net.stage1(images)).mean((2, 3))
    assert torch.allclose(attr.prototypes[0], pooled[labels == 0].mean(0), atol=1e-6)
    assert attr.attribute(images).shape == (12, 1, 8, 8)


def test_layer_input_is_pooled_when_asked(net, images, labels):
    attr = KMExAttribution(net, "stage3", n_prototypes=1)
    attr.fit([(images, labels)], attribute_to_layer_input=True)
    expected = KMExAttribution(net, "stage2", n_prototypes=1).fit([(images, labels)])
    assert torch.equal(attr.prototypes, expected.prototypes)
    maps = attr.attribute(images, attribute_to_layer_input=True)
    assert torch.equal(maps, expected.attribute(images))
    assert torch.equal(attr.predict(images), expected.predict(images))


def test_delta_of_map_at_layer_input_is_zero(net, images, labels):
    attr = KMExAttribution(net, "stage3", n_prototypes=1)
    attr.fit([(images, labels)], attribute_to_layer_input=True)
    maps = attr.attribute(images, target=0, attribute_to_layer_input=True)
    assert attr.compute_convergence_delta(maps, images, target=0).abs().max() < 1e-6


def test_call_on_another_side_of_the_layer_raises(net, images, labels):
    attr = KMExAttribution(net, "stage3", n_prototypes=1).fit([(images, labels)])
    with pytest.raises(ValueError, match="fitted with attribute_to_layer_input=False"):
        attr.attribute(images, attribute_to_layer_input=True)


def mlp_net() -> nn.Module:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 5, 3, 1, 1), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 6),
        nn.ReLU(),
        nn.Linear(6, 3),
    ).eval()
    torch.set_rng_state(state)
    return net


def test_model_without_linear_head_needs_a_layer(images, labels):
    with pytest.raises(
        HeadNotFoundError, match=r"no layer to pool was found .*further layers.*pass layer="
    ):
        KMExAttribution(mlp_net()).fit([(images, labels)])


def test_model_without_linear_head_works_with_a_layer(images, labels):
    attr = KMExAttribution(mlp_net(), "0", n_prototypes=2).fit([(images, labels)])
    _, delta = attr.attribute(images, return_convergence_delta=True)
    assert delta.abs().max() < 1e-5


@pytest.mark.parametrize("method", ["attribute", "predict", "classify", "similarity"])
def test_unfitted_raises(net, images, method):
    with pytest.raises(NotFittedError, match=r"call fit\(loader\) first, or load\(path, model\)"):
        getattr(KMExAttribution(net), method)(images)


def test_unfitted_prototypes_raise(net):
    attr = KMExAttribution(net)
    assert not attr.is_fitted
    with pytest.raises(NotFittedError, match="this KMExAttribution is not fitted"):
        _ = attr.prototypes


def test_failing_refit_keeps_earlier_bank(attr, images, labels):
    before = attr.bank_
    with pytest.raises(ValueError, match="label 7 is out of range"):
        attr.fit([(images, labels), (images, labels + 7)])
    assert attr.bank_ is before


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda x, y: [], {}, "the loader yielded no batch"),
        (lambda x, y: [x], {}, "the loader yields no labels"),
        (lambda x, y: [(x, y)], {"labels": None}, "labels=None is unknown"),
        (lambda x, y: [(x, y % 2)], {}, r"1 of 3 classes without samples \(the first: \[2\]\)"),
        (lambda x, y: [(x[:4], y[:4])], {}, "fit saw 1 feature vectors of class 1, fewer than n_"),
        (lambda x, y: [(x, y)], {"classes": [5]}, "classes holds 5, out of range for 3 logits"),
        (lambda x, y: [(x, y)], {"memory_budget": 8}, "memory_budget=8 bytes is less than one"),
    ],
    ids=["empty", "unlabelled", "agnostic", "class_missing", "few", "classes", "memory"],
)
def test_fit_raises(net, images, labels, make, options, message):
    with pytest.raises(ValueError, match=message):
        KMExAttribution(net, n_prototypes=2).fit(make(images, labels), **options)


def test_fit_raises_when_dict_lacks_a_class(net, images, labels):
    with pytest.raises(ValueError, match=r"n_prototypes has no entry for class 2; it has \[0, 1\]"):
        KMExAttribution(net, n_prototypes={0: 1, 1: 1}).fit([(images, labels)])


def test_inputs_far_outside_those_of_the_fit_raise(attr, images):
    with pytest.raises(ValueError, match=r"inputs range from .* preprocess them"):
        attr.attribute(255 * images)


def test_alignment_equals_loop(net, attr, images, labels):
    found = attr.alignment([(images, labels)])
    pooled = features_of(net, images).mean((2, 3))
    cosines = torch.cosine_similarity(pooled[:, None], attr.prototypes[None], dim=2)
    own = [cosines[i, attr.prototype_classes == labels[i]].max() for i in range(12)]
    assert found.class_cosine == pytest.approx(float(torch.stack(own).mean()), abs=1e-6)


@pytest.mark.parametrize("only", [0, 1], ids=["first_class", "second_class"])
def test_margin_without_rival_class_raises(net, images, labels, only):
    attr = KMExAttribution(net, n_prototypes=1).fit([(images, labels)], classes=[only])
    with pytest.raises(ValueError, match="class"):
        attr.attribute(images, target=only)
