"""Models that make pictures of signals inside: the error says so, and its remedy works."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from captum_kmex import (
    ClassifierPrototypes,
    KMExAttribution,
    LayerKMeansAttribution,
    suggest_layers,
)

LAYERS = ["1.stage1", "1.stage2"]


class Spectrogram(nn.Module):
    """Log power of a signal (N, 1, T) or (N, T), by frequency and time."""

    def forward(self, x: Tensor) -> Tensor:
        window = torch.hann_window(32)
        found = torch.stft(x.flatten(1), 32, 8, window=window, return_complex=True)
        return found.abs().log1p().unsqueeze(1)


class FilterBank(nn.Module):
    """Learned filters of a signal (N, 1, T), as rows of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv1d(1, 16, 32, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.filters(x).abs().unsqueeze(1)


class Behind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage2(self.stage1(x)).mean((2, 3)))


FRONT_ENDS = {
    "channel": (Spectrogram, (3, 1, 256)),
    "no_channel": (Spectrogram, (3, 256)),
    "learned": (FilterBank, (3, 1, 256)),
}


@pytest.fixture(params=FRONT_ENDS)
def model_and_signals(request):
    torch.manual_seed(0)
    kind, shape = FRONT_ENDS[request.param]
    return nn.Sequential(kind(), Behind()).eval(), torch.randn(shape)


CALLS = {
    "explain": lambda net, x: LayerKMeansAttribution(net, LAYERS).explain(x),
    "segment": lambda net, x: LayerKMeansAttribution(net, LAYERS).segment(x),
    "no_layers": lambda net, x: LayerKMeansAttribution(net).explain(x),
    "fit": lambda net, x: LayerKMeansAttribution(net, LAYERS).fit([x], labels=None),
    "kmex": lambda net, x: KMExAttribution(net, LAYERS[1]).fit([(x, torch.arange(3))]),
    "suggest": lambda net, x: suggest_layers(net, x.view(3, 1, -1)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_signals_of_a_model_of_pictures_are_refused_for_that(call, model_and_signals):
    with pytest.raises(ValueError, match=r"pictures of signals inside.* pass the part behind"):
        call(*model_and_signals)


@pytest.mark.parametrize("wrap", [lambda part: part, lambda part: part.forward], ids=["part", "f"])
def test_part_behind_is_explained_with_its_pictures(wrap, model_and_signals):
    model, signals = model_and_signals
    with torch.no_grad():
        pictures, logits = model[0](signals), model(signals)
    behind = wrap(model[1])
    attribution = LayerKMeansAttribution(behind, [model[1].stage1, model[1].stage2], n_clusters=4)
    found = attribution.explain(pictures)
    torch.testing.assert_close(found.logits, logits)
    assert found.attribution.shape == pictures.shape
    assert found.delta.abs().max() < 1e-6
    total = found.attribution.sum((1, 2, 3)) + found.bias
    torch.testing.assert_close(total, found.output)
    assert ClassifierPrototypes(behind).attribute(pictures).shape[2:] == (
        (pictures.shape[2] + 1) // 2,
        (pictures.shape[3] + 1) // 2,
    )
