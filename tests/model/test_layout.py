"""Which dimension holds the channels is told by what modules do, never by the input's shape."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from captum_kmex import ClassifierPrototypes, KMExAttribution, LayerKMeansAttribution
from captum_kmex.model.layout import feature_grid


class Last(nn.Module):
    """Run a module on the channels in the last dimension of a map (N, D, H, W)."""

    def __init__(self, module: nn.Module, back: bool) -> None:
        super().__init__()
        self.module, self.back = module, back

    def forward(self, x: Tensor) -> Tensor:
        y = self.module(x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2) if self.back else y


class NormFirst(nn.LayerNorm):
    """A layer norm of the channels in dimension 1, as ConvNeXt's."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class First(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


class Squeeze(nn.Module):
    """Gates by a linear layer on pooled features, which has no map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, width, 3, padding=1), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return h * torch.sigmoid(self.fc(h.mean((2, 3))))[..., None, None]


class Concatenating(nn.Module):
    """Appends channels, as DenseNet; the last convolution is as wide as the map."""

    def __init__(self, growth: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, growth, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(x)], 1)


def conv(width: int, stride: int | tuple[int, int] = 1) -> nn.Conv2d:
    return nn.Conv2d(1, width, 3, stride, 1)


def segments(body: list[nn.Module], layer: str, x: Tensor, **options: object) -> tuple[int, ...]:
    """Return the grid on which a layer of a body is segmented."""
    model = nn.Sequential(*body, nn.Flatten(), nn.LazyLinear(2)).eval()
    with torch.no_grad():
        model(x)
    attribution = LayerKMeansAttribution(model, [layer], n_clusters=2, **options)
    return tuple(attribution.segment(x).shape[1:])


FIRST = {  # a body, the layer, the input's size, the grid of the layer
    "spectrogram": ([conv(32, (1, 8))], "0", (64, 64), (64, 8)),
    "few-frames": ([conv(128, (4, 1))], "0", (256, 8), (64, 8)),
    "parameterless": ([conv(32, (1, 8)), nn.ReLU()], "1", (64, 64), (64, 8)),
    "pooled": ([conv(16), nn.MaxPool2d((1, 8))], "1", (64, 64), (64, 8)),
    "pool-of-nothing": ([nn.AvgPool2d((1, 8))], "0", (64, 64), (64, 8)),
    "container": ([nn.Sequential(conv(24, (8, 1)), nn.BatchNorm2d(24))], "0", (64, 64), (8, 64)),
    "squeeze-as-wide-as-the-map": ([Squeeze(8)], "0", (20, 8), (20, 8)),
    "concatenated-as-wide": ([Concatenating(12)], "0", (12, 12), (12, 12)),
    "cube": ([conv(8), Last(nn.LayerNorm(8), True), nn.Conv2d(8, 8, 3, 1, 1)], "2", (8, 8), (8, 8)),
    "permuted-back": ([conv(12), Last(nn.Linear(12, 6), True)], "1", (20, 9), (20, 9)),
    "norm-of-dimension-1": ([conv(12), NormFirst(12)], "1", (20, 9), (20, 9)),
    "conv-after-norm": ([NormFirst(1), conv(9)], "1", (30, 9), (30, 9)),
    "relu-after-conv-after-norm": ([NormFirst(1), conv(9), nn.ReLU()], "2", (30, 9), (30, 9)),
    "instance-norm": ([conv(7), nn.InstanceNorm2d(7)], "1", (30, 7), (30, 7)),
    "upsampled": ([conv(3), nn.Upsample(scale_factor=(2, 1))], "1", (5, 9), (10, 9)),
}
LAST = {
    "norm": ([conv(12), Last(nn.LayerNorm(12), False)], "1", (20, 9), (20, 9)),
    "linear": ([conv(12), Last(nn.Linear(12, 5), False)], "1", (20, 9), (20, 9)),
    "after-norm": ([conv(9), Last(nn.LayerNorm(9), False), nn.GELU()], "2", (20, 9), (20, 9)),
    "cube": ([conv(8), Last(nn.LayerNorm(8), False)], "1", (8, 8), (8, 8)),
    "permute-in-a-transformer": (
        [conv(12), Last(nn.Identity(), False), nn.LayerNorm(12)],
        "1",
        (20, 9),
        (20, 9),
    ),
    "elongated": ([conv(20), Last(nn.Linear(20, 20), False)], "1", (4, 40), (4, 40)),
}


@pytest.mark.parametrize(("body", "layer", "size", "grid"), FIRST.values(), ids=FIRST)
def test_channels_first_is_never_taken_for_last(body, layer, size, grid):
    x = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
    assert segments(copy.deepcopy(body), layer, x) == grid


@pytest.mark.parametrize(("body", "layer", "size", "grid"), LAST.values(), ids=LAST)
def test_channels_last_is_told_by_the_modules_that_made_it(body, layer, size, grid):
    x = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
    assert segments(copy.deepcopy(body), layer, x) == grid


def test_layout_does_not_depend_on_the_size_of_the_input():
    body = [conv(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1)]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)).eval()
    attribution = LayerKMeansAttribution(model, ["0", "2"], n_clusters=2)
    for height in (8, 16, 33):
        for width in (8, 16, 64):
            x = torch.rand(1, 1, height, width)
            assert attribution.segment(x).shape == (1, height, width)


class Unreadable(nn.Module):
    """Permutes after changing the number of channels by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = conv(6), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        h = self.stage(torch.cat([h, h.square()], 1).permute(0, 2, 3, 1))
        return self.fc(h.mean((1, 2)))


@pytest.fixture
def unreadable() -> nn.Module:
    model = Unreadable()
    model.stage = nn.Identity()
    return model.eval()


def test_layout_is_taken_from_the_user_where_modules_cannot_tell(unreadable, tmp_path):
    x, labels = torch.rand(6, 1, 10, 7), torch.arange(6) % 3
    told = LayerKMeansAttribution(unreadable, ["stage"], n_prototypes=2, layout="channels_last")
    assert told.segment(x).shape == (6, 10, 7)
    told.fit([(x, labels)])
    told.save(tmp_path / "bank.safetensors")
    loaded = LayerKMeansAttribution.load(tmp_path / "bank.safetensors", unreadable)
    assert torch.equal(loaded.segment(x), told.segment(x))
    pooled = KMExAttribution(unreadable, "stage", n_prototypes=1, layout="channels_last")
    assert pooled.fit([(x, labels)]).attribute(x, target=0).shape == (6, 1, 10, 7)
    head = ClassifierPrototypes(unreadable, "stage", nn.Linear(12, 3), layout="channels_last")
    assert head.attribute(x, target=0).shape == (6, 1, 10, 7)


@pytest.mark.parametrize("layout", ["NHWC", "", 3, True, ["channels_last"]], ids=str)
def test_unknown_layout_lists_the_known_ones(unreadable, layout):
    with pytest.raises((ValueError, TypeError), match=r"layout.*channels_first"):
        LayerKMeansAttribution(unreadable, ["conv"], layout=layout)
    attribution = LayerKMeansAttribution(unreadable, ["conv"])
    attribution.layout = layout
    with pytest.raises((ValueError, TypeError), match=r"layout.*channels_first"):
        attribution.segment(torch.rand(1, 1, 8, 8))


@pytest.mark.parametrize("prepared", [False, True], ids=["plain", "prepared"])
def test_exported_module_has_the_layout_of_the_eager_one(prepared):
    body = [conv(12), Last(nn.LayerNorm(12), False), First()]
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3)]
    model = nn.Sequential(*body, *tail).eval()
    x, labels = torch.rand(6, 1, 10, 7), torch.arange(6) % 3
    attribution = LayerKMeansAttribution(model, ["0", "1"], n_prototypes=2).fit([(x, labels)])
    if prepared:
        attribution.prepare()
    found = attribution.as_module(x, target=1)(x)
    expected = attribution.attribute(x, target=1)
    torch.testing.assert_close(found["attribution"], expected, rtol=1e-4, atol=1e-6)


def test_grid_of_a_channels_last_map_is_permuted():
    x = torch.rand(2, 4, 6, 24)
    assert torch.equal(feature_grid(x, (32, 48), "a", 3), x.permute(0, 3, 1, 2))
    assert feature_grid(x, (32, 48), "a") is x
