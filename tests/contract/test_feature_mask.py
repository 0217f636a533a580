"""Segments lent to Captum's perturbations: a mask that all four take, and what they find."""

from __future__ import annotations

import copy

import pytest
import torch
from captum._utils.models.linear_model import SkLearnLinearRegression
from captum.attr import FeatureAblation, KernelShap, Lime, ShapleyValueSampling
from nets import LAYERS, make_net

from captum_kmex import LayerKMeansAttribution
from captum_kmex.explaining.segments import enlarged_mask

N = 3


@pytest.fixture(scope="module")
def made(drawn_images):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2, n_clusters=5)
    fitted = copy.copy(attr).fit([(drawn_images, torch.arange(12) % 3)], n_init=1)
    return {"unfitted": attr, "fitted": fitted}


@pytest.fixture(params=["unfitted", "fitted"])
def attr(made, request):
    return made[request.param]


@pytest.fixture
def x(images):
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(3))
    return (images + 0.3 * noise)[:N]


OPTIONS = [{}, {"depth": -1}, {"depth": "stage2", "connected": True}, {"min_area": 4}]


@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewPixelsWarning")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_mask_holds_the_segment_of_the_cell_under_each_pixel(attr, x, options):
    mask, segments = attr.feature_mask(x, **options), attr.segment(x, **options)
    assert mask.shape == (N, 1, 16, 16)
    assert mask.dtype == torch.int64
    height, width = segments.shape[1:]
    for i in range(N):
        ranks = {label: rank for rank, label in enumerate(segments[i].unique().tolist())}
        for y in range(16):
            for u in range(16):
                cell = segments[i, int((y + 0.5) * height / 16), int((u + 0.5) * width / 16)]
                assert mask[i, 0, y, u] == ranks[int(cell)]


def test_mask_counts_without_gaps_in_each_image(made, x):
    mask = made["fitted"].feature_mask(x, target=1, restrict="predicted", connected=True)
    counts = [image.unique().tolist() for image in mask]
    assert all(found == list(range(len(found))) for found in counts)
    assert len({len(found) for found in counts}) > 1
    for i in range(N):
        alone = made["fitted"].feature_mask(x[i : i + 1], 1, restrict="predicted", connected=True)
        assert torch.equal(alone, mask[i : i + 1])


@pytest.mark.parametrize(
    ("segments", "size", "expected"),
    [
        ([[9, 4]], (1, 5), [[1, 1, 0, 0, 0]]),
        ([[9, 4, 4], [7, 9, 9]], (4, 3), [[2, 0, 0], [2, 0, 0], [1, 2, 2], [1, 2, 2]]),
        ([[5, 6, 7, 8]], (1, 2), [[0, 1]]),  # two of four are not seen at this size
    ],
    ids=["odd", "finer", "coarser"],
)
def test_pixels_take_the_cell_at_their_centre(segments, size, expected):
    assert enlarged_mask(torch.tensor([segments]), size).tolist() == [[expected]]


def test_labels_beyond_the_digits_of_floats_are_told_apart():
    segments = torch.tensor([[[2**62, 2**62 + 1]]])
    assert enlarged_mask(segments, (2, 4)).tolist() == [[[[0, 0, 1, 1]] * 2]]


# ---------------------------------------------------------------- in Captum's hands


def additive(x: torch.Tensor) -> torch.Tensor:
    """Two logits to which each pixel adds for itself, so that all methods must agree."""
    weights = torch.linspace(-1, 1, x[0].numel(), dtype=x.dtype).view_as(x[0])
    return torch.stack([(x * weights).sum((1, 2, 3)), x.square().sum((1, 2, 3))], 1)


METHODS = {
    "FeatureAblation": lambda f: (FeatureAblation(f), {}),
    "ShapleyValueSampling": lambda f: (ShapleyValueSampling(f), {"n_samples": 2}),
    "KernelShap": lambda f: (KernelShap(f), {"n_samples": 300}),
    "Lime": lambda f: (
        Lime(f, interpretable_model=SkLearnLinearRegression()),
        {"n_samples": 300},
    ),
}
methods = pytest.mark.parametrize("name", list(METHODS))
# Captum's own: KernelShap shows how it weighs, and batches whose masks differ are told of
quiet = pytest.mark.filterwarnings("ignore::UserWarning")


@quiet
@methods
@pytest.mark.parametrize("channels", [1, 3])
def test_captum_finds_what_each_segment_adds(made, x, name, channels):
    torch.manual_seed(0)
    mask = made["unfitted"].feature_mask(x, connected=True, min_area=6)
    images = x.double().expand(-1, channels, -1, -1)
    method, options = METHODS[name](additive)
    found = method.attribute(images, target=1, feature_mask=mask, **options)
    assert found.shape == images.shape
    assert len({int(image.max()) for image in mask}) > 1  # images of several counts at once
    for i in range(N):
        for segment in range(int(mask[i].max()) + 1):
            inside = (mask[i] == segment).expand_as(images[i])
            expected = images[i][inside].square().sum()
            torch.testing.assert_close(
                found[i][inside].double(), expected.expand(int(inside.sum())), rtol=1e-3, atol=1e-3
            )


@quiet
@methods
def test_captum_takes_segments_out_of_the_model_itself(attr, x, name):
    torch.manual_seed(0)
    mask, net = attr.feature_mask(x), attr.model
    method, options = METHODS[name](net)
    with torch.no_grad():
        found = method.attribute(x, target=1, feature_mask=mask, **options)
    assert torch.isfinite(found).all()
    for i in range(N):
        sums = 0.0
        for segment in range(int(mask[i].max()) + 1):
            inside = mask[i] == segment
            values = found[i][inside]
            assert values.max() == values.min()
            sums += float(values[0])
            if name == "FeatureAblation":
                less = net(torch.where(inside, 0.0, x[i : i + 1]))[0, 1]
                torch.testing.assert_close(values[0], net(x[i : i + 1])[0, 1] - less)
        if name == "ShapleyValueSampling":
            both = net(torch.stack([x[i], torch.zeros_like(x[i])]))[:, 1]
            assert sums == pytest.approx(float(both[0] - both[1]), abs=1e-5)
