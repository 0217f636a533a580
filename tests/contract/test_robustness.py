"""Properties that hold at every input size, layout and depth, checked on seeded random cases."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from nets import LAYERS, make_net
from torch import Tensor, nn

from captum_kmex import ClassifierPrototypes, KMExAttribution, LayerKMeansAttribution

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")

N_CASES = 12
# shapes at which the channels of a layer of SmallNet have the input's proportions
PROPORTIONED = [(24, 18), (18, 24), (31, 25), (16, 24), (13, 21)]


def random_sizes() -> list[tuple[int, int]]:
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randint(5, 41, (N_CASES, 2), generator=generator).tolist()
    return [(height, width) for height, width in drawn]


SIZES = random_sizes() + PROPORTIONED
# odd, even and narrow ones, and all that are easily mistaken
FEW_SIZES = random_sizes()[:4] + PROPORTIONED


def random_images(size: tuple[int, int], seed: int = 0, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 4, 4, generator=generator)
    smooth = F.interpolate(coarse, size, mode="bilinear", align_corners=False)
    return smooth + 0.3 * torch.randn(count, 1, *size, generator=generator)


def grids(model: nn.Module, x: Tensor) -> list[tuple[int, int]]:
    """Run the stages one after another: the grids that the package must find."""
    found = []
    for name in LAYERS:
        x = model.get_submodule(name)(x)
        found.append((x.shape[2], x.shape[3]))
    return found


def ids(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


@pytest.mark.parametrize("size", SIZES, ids=ids)
def test_segments_lie_on_the_grid_of_each_depth_at_any_size(net, size):
    x = random_images(size)
    attribution = LayerKMeansAttribution(net, LAYERS, n_clusters=3)
    for depth, grid in enumerate(grids(net, x)):
        assert attribution.segment(x, depth=depth).shape == (3, *grid)


@pytest.mark.parametrize("size", SIZES, ids=ids)
def test_prototypes_map_is_complete_at_any_size(net, size):
    x = random_images(size)
    logits = net(x).detach()
    attribution = ClassifierPrototypes(net)
    for target in range(3):
        maps = attribution.attribute(x, target=target)
        assert tuple(maps.shape[2:]) == grids(net, x)[-1]
        total = maps.sum((1, 2, 3)) + net.head.bias[target].detach()
        torch.testing.assert_close(total, logits[:, target], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"average_top": True}], ids=["plain", "average-top"])
@pytest.mark.parametrize(
    "size",
    [s if s in FEW_SIZES else pytest.param(s, marks=pytest.mark.slow) for s in SIZES],
    ids=ids,
)
def test_kmeans_map_is_complete_at_any_size_and_depth(net, size, options):
    x = random_images(size)
    logits = net(x).detach()
    attribution = LayerKMeansAttribution(net, LAYERS, n_clusters=4, **options)
    for depth, grid in enumerate(grids(net, x)):
        for extra in ({}, {"connected": True}, {"upsample": "input"}):
            maps, delta = attribution.attribute(
                x, target=1, depth=depth, return_convergence_delta=True, **extra
            )
            assert tuple(maps.shape[2:]) == (size if "upsample" in extra else grid)
            total = maps.sum((1, 2, 3)) + net.head.bias[1].detach()
            torch.testing.assert_close(total, logits[:, 1], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(delta, total - logits[:, 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES[::3], ids=ids)
def test_kmex_map_is_complete_in_both_units_at_any_size(net, size):
    x = random_images(size, count=12)
    attribution = KMExAttribution(net, n_prototypes=2)
    attribution.fit([(x, torch.arange(12) % 3)], n_init=2, n_representatives=0)
    pooled = net.stage3(net.stage2(net.stage1(x))).mean((2, 3)).detach()
    squares = torch.cdist(pooled.double(), attribution.prototypes.double()).square()
    nearest = torch.stack(
        [squares[:, attribution.prototype_classes == c].min(1).values for c in range(3)], 1
    ).float()
    expected = {
        "distance": nearest[:, 1],
        "margin": nearest[:, [0, 2]].min(1).values - nearest[:, 1],
    }
    scale = float(pooled.square().sum(1).max())
    for units, total in expected.items():
        maps, delta = attribution.attribute(x, target=1, units=units, return_convergence_delta=True)
        torch.testing.assert_close(maps.sum((1, 2, 3)), total, rtol=0, atol=1e-5 * scale)
        assert delta.abs().max() < 1e-5 * scale


@pytest.mark.parametrize("factor", [1e-4, 1.0, 1e4], ids=str)
def test_delta_scales_with_the_logits(net, factor):
    """Completeness is relative: a model with logits 1e4 times as large misses as much more."""
    with torch.no_grad():
        net.head.weight.mul_(factor)
        net.head.bias.mul_(factor)
    x = random_images((19, 27))
    scale = float(net(x).detach().abs().max())
    for attribution in (ClassifierPrototypes(net), LayerKMeansAttribution(net, LAYERS)):
        _, delta = attribution.attribute(x, target=1, return_convergence_delta=True)
        assert delta.abs().max() < 1e-5 * scale


@pytest.mark.parametrize("factor", [1e-3, 1e3], ids=str)
def test_segments_do_not_depend_on_the_scale_of_a_layer(net, factor):
    """Blocks are normalised at each pixel, so a layer in other units gives the same segments."""
    x = random_images((16, 20))
    expected = LayerKMeansAttribution(net, LAYERS).segment(x)

    class Scale(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * factor

    class Unscale(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / factor

    net.stage2.append(Scale())
    net.stage3.insert(0, Unscale())
    found = LayerKMeansAttribution(net, LAYERS).segment(x)
    assert (found == expected).float().mean() > 0.99  # a tie may fall the other way


@pytest.mark.parametrize("contrast", [0, [2, 0, 2]], ids=["one", "each"])
def test_contrast_sums_to_the_difference_of_logits(net, contrast):
    x = random_images((21, 14))
    logits = net(x).detach()
    against = torch.as_tensor(contrast).expand(3)
    for attribution in (ClassifierPrototypes(net), LayerKMeansAttribution(net, LAYERS)):
        maps = attribution.attribute(x, target=1, contrast=contrast)
        bias = net.head.bias.detach()
        total = maps.sum((1, 2, 3)) + bias[1] - bias[against]
        expected = logits[:, 1] - logits[torch.arange(3), against]
        torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- layouts


def test_channels_first_map_is_not_taken_for_channels_last_on_wide_layers():
    """64 channels on 41x26 of 162x104 pixels: 64/41 is nearer to 162/104 than 41/26 is."""
    model = nn.Sequential(
        nn.Conv2d(3, 64, 7, 4, 3),
        nn.ReLU(),
        nn.Conv2d(64, 8, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).eval()
    x = torch.rand(1, 3, 162, 104, generator=torch.Generator().manual_seed(0))
    assert LayerKMeansAttribution(model, ["1", "3"]).segment(x).shape == (1, 41, 26)


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (40, 24), (36, 28)], ids=ids)
def test_channels_last_layers_give_the_segments_of_channels_first(net, size):
    class Last(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(0, 2, 3, 1)

    class First(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(0, 3, 1, 2)

    class Wide(nn.Module):
        """Repeat the channels to the 48 that no grid here is like."""

        def forward(self, x: Tensor) -> Tensor:
            return x.repeat(1, 48 // x.shape[1], 1, 1)

    x = random_images(size)
    stages = [nn.Sequential(net.get_submodule(name), Wide()) for name in LAYERS[1:]]
    conv = nn.Conv2d(48, 6, 3, 2, 1)
    stages[1] = nn.Sequential(conv, nn.ReLU(), Wide())
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 3)]
    first = nn.Sequential(net.stage1, stages[0], stages[1], *tail).eval()
    last = nn.Sequential(
        net.stage1,
        nn.Sequential(stages[0], Last()),
        First(),
        nn.Sequential(stages[1], Last()),
        First(),
        *tail,
    ).eval()
    expected = LayerKMeansAttribution(first, ["1", "2"]).attribute(x)
    found = LayerKMeansAttribution(last, ["1", "3"], layout="channels_last").attribute(x)
    torch.testing.assert_close(found, expected)


# ---------------------------------------------------------------- heads of everyday CNNs

TAILS = {
    "max-pool-flatten": [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 49, 3)],
    "max-pool-average": [nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)],
    "uneven-average": [nn.AvgPool2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)],
    "coarse-flatten": [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * 4, 3)],
    "flatten": [nn.Flatten(), nn.Linear(8 * 14 * 14, 3)],
    "average": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)],
    "no-bias": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3, bias=False)],
    "convolution": [nn.Conv2d(8, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
    "pooled-convolution": [nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 3, 1), nn.Flatten()],
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS.keys())
def test_prototypes_are_exact_for_everyday_heads(tail):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), *tail).eval()
    x = random_images((16, 16))
    logits = model(x).detach()
    layer = next(m for m in reversed(model) if isinstance(m, (nn.Linear, nn.Conv2d)))
    bias = torch.zeros(3) if layer.bias is None else layer.bias.detach()
    attribution = ClassifierPrototypes(model)
    for target in range(3):
        maps = attribution.attribute(x, target=target)
        assert maps[0].numel() > 1
        total = maps.sum((1, 2, 3)) + bias[target]
        torch.testing.assert_close(total, logits[:, target], rtol=1e-5, atol=1e-6)


def test_head_is_found_again_after_an_image_of_one_cell(net):
    attribution = ClassifierPrototypes(net)
    assert attribution.attribute(random_images((4, 4))).shape == (3, 1, 1, 1)
    maps = attribution.attribute(random_images((16, 12)), target=1)
    assert torch.equal(maps, ClassifierPrototypes(net).attribute(random_images((16, 12)), target=1))


def test_head_is_found_again_after_images_of_nothing(net):
    """A blank first batch may make every map alike; the next one must not inherit the choice."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(parameter.abs() if parameter.ndim > 1 else torch.zeros(()))
    attribution = ClassifierPrototypes(net)
    attribution.attribute(torch.zeros(2, 1, 16, 16))
    x = random_images((16, 16)).abs()
    torch.testing.assert_close(
        attribution.attribute(x, target=1),
        ClassifierPrototypes(make_like(net)).attribute(x, target=1),
    )


def make_like(net: nn.Module) -> nn.Module:
    other = make_net()
    other.load_state_dict(net.state_dict())
    return other


def test_maps_follow_the_weights_of_a_model_that_is_trained_further(net):
    x = random_images((16, 16))
    attribution = ClassifierPrototypes(net)
    attribution.attribute(x)
    with torch.no_grad():
        net.head.weight.add_(1)
        net.stage3[0].weight.mul_(2)
    fresh = ClassifierPrototypes(make_like(net)).attribute(x, target=0)
    assert torch.equal(attribution.attribute(x, target=0), fresh)
