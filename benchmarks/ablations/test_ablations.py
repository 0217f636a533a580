from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.ablation import score
from benchmarks.ablations.carrying import carry_down, fit_to_deepest
from benchmarks.ablations.replay import Replay, record
from benchmarks.ablations.settings import Setting, deepest_density
from benchmarks.evaluation.task import Sample
from captum_kmex import LayerKMeansAttribution
from captum_kmex.composite.stack import resize

LAYERS = ["1", "3", "5"]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU()),
        *(nn.Conv2d(8, 10, 3, 2, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 4)),
    ).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def replay(model: nn.Module, images: Tensor) -> Replay:
    return record(model, LAYERS, images)


TARGETS = torch.tensor([0, 1, 2, 3, 0])


@pytest.fixture(scope="module")
def segments(replay: Replay) -> Tensor:
    return LayerKMeansAttribution(replay, replay.layers, n_clusters=6).segment(replay.images)


def test_replay_returns_the_logits_and_leaves_no_hook(
    model: nn.Module, images: Tensor, replay: Replay
) -> None:
    assert torch.allclose(replay(replay.images), model(images), atol=1e-6)
    assert not any(module._forward_hooks for module in model.modules())


def test_replay_explains_as_the_model_does(
    model: nn.Module, images: Tensor, replay: Replay
) -> None:
    maps, segments = Setting("dimension", 6, drop=0).explain(replay, TARGETS, 3)
    attribution = LayerKMeansAttribution(model, LAYERS, n_clusters=6, weighting="dimension", seed=3)
    torch.testing.assert_close(attribution.attribute(images, TARGETS), maps, atol=1e-7, rtol=0)
    torch.testing.assert_close(attribution.segment(images), segments)


def test_carrying_down_by_hand_is_what_attribute_does(replay: Replay) -> None:
    """The variants differ from the default in nothing but what they name."""
    attribution = LayerKMeansAttribution(replay, replay.layers, n_clusters=6)
    segments = [attribution.segment(replay.images, depth=d) for d in (1, 0)]
    density = carry_down(deepest_density(replay, TARGETS), segments)
    maps = attribution.attribute(replay.images, TARGETS)
    torch.testing.assert_close(maps, density / density[0].numel(), atol=1e-6, rtol=0)


def test_fitting_keeps_the_sum(replay: Replay, segments: Tensor) -> None:
    density = deepest_density(replay, TARGETS)
    for ridge in (1.0, 0.01):
        maps = fit_to_deepest(density, segments, ridge)
        assert torch.allclose(maps.mean((1, 2, 3)), density.mean((1, 2, 3)), atol=1e-5)


def test_fitting_with_a_great_ridge_is_averaging(replay: Replay, segments: Tensor) -> None:
    density = deepest_density(replay, TARGETS)
    averaged = carry_down(density, [segments])
    assert torch.allclose(fit_to_deepest(density, segments, 1e6), averaged, atol=1e-4)


def test_fitting_finds_the_map_that_was_seen_coarsely() -> None:
    """What averaging spreads over the border, least squares puts back."""
    segments = torch.zeros(1, 16, 16, dtype=torch.int64)
    segments[:, 3:10, 5:13] = 1
    truth = segments[:, None].double() * 3 - 1
    spread = resize(torch.eye(16, dtype=torch.float64).view(16, 1, 4, 4), (16, 16))[:, 0]
    view = spread / spread.sum((1, 2), keepdim=True)
    seen = (view * truth[0]).sum((1, 2)).view(1, 1, 4, 4)
    seen = seen + truth.mean() - seen.mean()
    found = fit_to_deepest(seen, segments, 1e-9)
    averaged = carry_down(seen, [segments])
    assert (found - truth).abs().max() < 0.1 * (averaged - truth).abs().max()


def test_score_of_the_true_mask_is_one() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[:, 2:4, 2:6] = True
    sample = Sample(torch.zeros(2, 3, 8, 8), torch.zeros(2).long(), masks=masks)
    scores = score((masks[:, None].float(), masks.long()), sample)
    assert {k: v.tolist() for k, v in scores.items()} == {key: [1.0, 1.0] for key in scores}
