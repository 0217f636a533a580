"""Features of any size: the same segments, votes and maps, or a clear refusal."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import LAYERS, make_net
from torch import Tensor, nn

from captum_kmex import ClassifierPrototypes, KMExAttribution, LayerKMeansAttribution
from captum_kmex.alignment import AlignmentSums, rescaled
from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.explaining.image_clusters import cluster_image_rows
from captum_kmex.model.head import LinearHead
from captum_kmex.scaling import unit_scale

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")

SCALES = [2.0**-100, 1e-30, 1e-8, 1e-5, 3.0, 1e20, 2.0**100]
scales = pytest.mark.parametrize("scale", SCALES)


class ScaledNet(nn.Module):
    """The small net, each stage's features times a factor that the next one takes back."""

    def __init__(self, factors: tuple[float, float, float]) -> None:
        super().__init__()
        net = make_net()
        self.stage1 = nn.Sequential(net.stage1, Times(factors[0]))
        self.stage2 = nn.Sequential(Times(1 / factors[0]), net.stage2, Times(factors[1]))
        self.stage3 = nn.Sequential(Times(1 / factors[1]), net.stage3, Times(factors[2]))
        self.pool, self.head = net.pool, net.head
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.pool(self.stage3(self.stage2(self.stage1(x)))), 1))


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def blocks(seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(3, 5, 8, 9), (3, 7, 4, 5), (3, 6, 2, 3)]
    return tuple(torch.randn(*size, generator=generator).relu() for size in sizes)


def prototypes(k: int) -> Tensor:
    return torch.rand(k, 18, generator=torch.Generator().manual_seed(7))


@scales
@pytest.mark.parametrize("k", [5, 40, 300])
def test_nearest_prototypes_do_not_depend_on_the_scale(scale, k):
    plain, scaled = (
        StackedBlocks(tuple(factor * b for b in blocks()), (1.0, 2.0, 0.5))
        for factor in (1.0, scale)
    )
    found, distances = scaled.nearest(prototypes(k))
    expected, expected_distances = plain.nearest(prototypes(k))
    assert torch.equal(found, expected)
    assert torch.allclose(distances, expected_distances, atol=1e-5)


@pytest.mark.parametrize("factors", [(1e30, 1e-30, 1.0), (1e-30, 1.0, 1e25), (1e-20, 1e20, 1e-8)])
def test_each_block_has_its_own_scale(factors):
    own = [f * b for f, b in zip(factors, blocks(), strict=True)]
    stack = StackedBlocks(tuple(own), (1.0, 1.0, 1.0))
    plain = StackedBlocks(blocks(), (1.0, 1.0, 1.0))
    assert torch.equal(stack.nearest(prototypes(40))[0], plain.nearest(prototypes(40))[0])
    images = torch.tensor([0, 2, 1])
    pixels = torch.tensor([3, 70, 41])
    assert torch.allclose(stack.rows(images, pixels), plain.rows(images, pixels), atol=1e-6)
    assert torch.allclose(stack.squared_norms, plain.squared_norms, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_images_of_other_scales_beside_it_change_nothing(scale):
    mixed = [b * torch.tensor([1.0, scale, 1 / scale])[:, None, None, None] for b in blocks()]
    together = StackedBlocks(tuple(mixed), (1.0, 1.0, 1.0))
    plain = StackedBlocks(blocks(), (1.0, 1.0, 1.0))
    assert torch.equal(together.nearest(prototypes(40))[0], plain.nearest(prototypes(40))[0])


@pytest.mark.parametrize("scale", [2.0**-90, 2.0**-20, 2.0**20, 2.0**90])
def test_powers_of_two_change_no_bit(scale):
    plain, scaled = (
        StackedBlocks(tuple(factor * b for b in blocks()), (1.0, 2.0, 0.5))
        for factor in (1.0, scale)
    )
    for found, expected in zip(scaled.best(prototypes(9)), plain.best(prototypes(9)), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("zero", [0, 1, 2])
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_blocks_of_zeros_stay_zero(zero, scale):
    own = [torch.zeros_like(b) if i == zero else scale * b for i, b in enumerate(blocks())]
    stack = StackedBlocks(tuple(own), (1.0, 1.0, 1.0))
    _, distances = stack.nearest(prototypes(20))
    assert distances.isfinite().all()
    rows = stack.rows(torch.tensor([0]), torch.tensor([0]))
    assert not rows.split([5, 7, 6], 1)[zero].any()
    assert ((stack.squared_norms - 2).abs() < 1e-4).float().mean() > 0.5


@scales
def test_image_clusters_do_not_depend_on_the_scale(scale):
    plain, scaled = (
        StackedBlocks(tuple(factor * b for b in blocks()), (1.0, 1.0, 1.0))
        for factor in (1.0, scale)
    )
    found = scaled.best(cluster_image_rows(scaled, 4))[1]
    assert torch.equal(found, plain.best(cluster_image_rows(plain, 4))[1])


@pytest.mark.parametrize("factors", [(2.0**66,) * 3, (2.0**-40,) * 3, (2.0**90, 2.0**-80, 1.0)])
@pytest.mark.parametrize("fits", [True, False], ids=["fitted", "unfitted"])
def test_layer_kmeans_explains_alike_at_every_scale(images, labels, factors, fits):
    found = []
    for own in ((1.0, 1.0, 1.0), factors):
        attr = LayerKMeansAttribution(ScaledNet(own), LAYERS, n_clusters=4, n_prototypes=2)
        if fits:
            attr.fit([(images, labels)], n_init=2, n_representatives=0)
        found.append(attr.explain(images, target=1))
    plain, scaled = found
    assert torch.equal(scaled.segments, plain.segments)
    size = plain.attribution.abs().max() * factors[2]
    assert (scaled.attribution / factors[2] - plain.attribution).abs().max() <= (
        1e-5 * size / factors[2]
    )
    if fits:
        assert torch.allclose(scaled.class_scores, plain.class_scores, atol=1e-4)
        assert torch.equal(scaled.prediction, plain.prediction)


@scales
def test_scores_do_not_depend_on_the_scale(images, labels, scale):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2)
    attr.fit([(images, labels)], n_init=2, n_representatives=0)
    centroids = attr.bank_.codebooks[0].centroids
    generator = torch.Generator().manual_seed(0)
    own = [torch.rand(2, d, s, s, generator=generator) for d, s in ((4, 16), (6, 8), (8, 4))]
    weights = (1.0, 1.0, 1.0)
    stack = StackedBlocks(tuple(scale * block for block in own), weights)
    expected = StackedBlocks(tuple(own), weights)
    scores, expected_scores = stack.scores(centroids), expected.scores(centroids)
    assert torch.equal(scores.argmax(1), expected_scores.argmax(1))
    assert torch.allclose(scores, expected_scores, atol=1e-5)
    assert torch.allclose(stack.squared_norms, expected.squared_norms, atol=1e-5)


@scales
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3, 3)], ids=["pooled", "flatten"])
def test_alignment_of_a_column_with_itself_is_one(scale, shape):
    columns = scale * torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    head = LinearHead(columns, torch.zeros(4))
    features = columns if columns.ndim == 4 else columns[:, :, None, None].expand(-1, -1, 3, 3)
    found = head.alignment(features, torch.arange(4))
    if columns.ndim == 2:
        assert torch.allclose(found, torch.ones(4, 1, 3, 3), atol=1e-5)
    plain = LinearHead(columns / scale, torch.zeros(4)).alignment(features / scale, torch.arange(4))
    assert torch.allclose(found, plain, atol=1e-5)


@scales
def test_cosines_do_not_depend_on_the_scale(scale):
    generator = torch.Generator().manual_seed(0)
    rows, own = torch.randn(9, 6, generator=generator), torch.arange(9) % 3
    centroids, classes = torch.randn(5, 6, generator=generator), torch.tensor([0, 0, 1, 2, 2])
    expected = AlignmentSums(centroids, classes, 3).cosines(rows, own)
    found = AlignmentSums(scale * centroids, classes, 3).cosines(scale * rows, own)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    lengths = rescaled(centroids, classes, scale * rows, own) / scale
    assert torch.allclose(lengths, rescaled(centroids, classes, rows, own), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-25, 1e20, 1e30])
def test_classifier_prototypes_align_alike_at_every_scale(images, labels, scale):
    net = ScaledNet((1.0, 1.0, scale))
    loud = copy.deepcopy(net)
    loud.head.weight.data /= scale
    for model in (net, loud):
        found = ClassifierPrototypes(model).alignment([(images, labels)])
        plain = ClassifierPrototypes(make_net()).alignment([(images, labels)])
        assert found.class_cosine == pytest.approx(plain.class_cosine, abs=1e-5)
        assert found.out_cosine == pytest.approx(plain.out_cosine, abs=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-17, 1e17, 1e20, 1e30])
def test_kmex_refuses_features_whose_squares_are_out_of_range(images, labels, scale):
    attr = KMExAttribution(ScaledNet((1.0, 1.0, scale)), "stage3", n_prototypes=2)
    with pytest.raises(ValueError, match=r"largest value is .* outside of .*scale the features"):
        attr.fit([(images, labels)], n_init=2)


@pytest.mark.parametrize("scale", [1e-10, 1e10])
def test_kmex_is_right_at_scales_that_it_takes(images, labels, scale):
    found = []
    for factor in (1.0, scale):
        attr = KMExAttribution(ScaledNet((1.0, 1.0, factor)), "stage3", n_prototypes=2)
        attr.fit([(images, labels)], n_init=2, n_representatives=0)
        found.append((attr.predict(images), attr.attribute(images, 1) / factor / factor))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-3, atol=1e-6 * found[0][1].abs().max())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_unit_scale_is_an_exact_power_of_two(dtype):
    limits = torch.finfo(dtype)
    values = torch.tensor([[limits.max], [limits.tiny], [1.0], [0.75], [-3.0], [0.0]], dtype=dtype)
    scale = unit_scale(values)
    assert (scale.double().log2() % 1 == 0).all()
    assert scale.isfinite().all()
    near = (values * scale).abs()[:5]
    assert ((near >= 0.5) & (near <= 4)).all()
    assert torch.equal((values * scale) / scale, values)
