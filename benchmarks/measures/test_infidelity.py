from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.metrics import infidelity
from scipy.stats import pearsonr
from torch import Tensor, nn

from benchmarks.measures.formulas.toy import Given, answers_of, linear_net, task_of
from benchmarks.measures.infidelity import MEASURES, correlation, noise, squares, unexplained

_SCORE = MEASURES[0].score


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("scale", [1.0, -7.5])
def test_noise_infidelity_of_a_linear_network_is_zero_for_its_gradient(
    scale: float, random: torch.Generator
) -> None:
    weight, x = (torch.randn(4, 3, 8, 8, generator=random) for _ in range(2))
    gradient = Given(lambda _, target: scale * weight[target].sum(1))
    found = _SCORE(answers_of(task_of(linear_net(weight), 4), gradient, x))
    assert torch.allclose(found["noise"], torch.zeros(4).double(), atol=1e-8)


def test_square_infidelity_of_a_linear_network_is_zero_for_its_contributions(
    random: torch.Generator,
) -> None:
    weight, x = (torch.randn(4, 3, 8, 8, generator=random) for _ in range(2))
    parts = Given(lambda x, target: (weight[target] * x).sum(1))
    found = _SCORE(answers_of(task_of(linear_net(weight), 4), parts, x))
    assert torch.allclose(found["squares"], torch.zeros(4).double(), atol=1e-8)
    assert torch.allclose(found["mufidelity"], torch.ones(4).double())
    against = Given(lambda x, target: -(weight[target] * x).sum(1))
    found = _SCORE(answers_of(task_of(linear_net(weight), 4), against, x))
    assert torch.allclose(found["mufidelity"], -torch.ones(4).double())


def test_random_maps_explain_next_to_nothing(random: torch.Generator) -> None:
    weight, x = (torch.randn(60, 1, 16, 16, generator=random) for _ in range(2))
    chance = torch.randn(60, 16, 16, generator=random)
    found = _SCORE(answers_of(task_of(linear_net(weight), 60), Given(lambda _, t: chance[t]), x))
    assert found["noise"].mean() > 0.9
    assert abs(found["mufidelity"].mean()) < 0.1


def test_unexplained_share_agrees_with_captum(random: torch.Generator) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    x, maps = torch.randn(1, 3, 8, 8, generator=random), torch.randn(8, 8, generator=random)
    draws = noise(32, (8, 8), 0)

    def change(inputs: Tensor) -> tuple[Tensor, Tensor]:
        spread = draws[:, None].expand_as(inputs)
        return spread, inputs - spread

    with torch.no_grad():
        drops = (net(x)[:, 1] - net(x - draws[:, None])[:, 1])[None]
    spread = (maps / 3).expand(1, 3, 8, 8)  # the channels' sum is the map
    judged = infidelity(
        net, change, x, spread, target=1, n_perturb_samples=32, normalize=True,
        max_examples_per_batch=32,
    )  # fmt: skip
    found = unexplained((draws * maps).sum((1, 2))[None], drops) * drops.square().mean(1)
    assert torch.allclose(found, judged, rtol=1e-4)


def test_correlation_equals_scipy(random: torch.Generator) -> None:
    a, b = torch.randn(2, 4, 30, generator=random).double()
    expected = [pearsonr(x, y).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert np.allclose(correlation(a, b), expected)
    assert correlation(torch.ones(1, 5), a[:1, :5]).item() == 0


def test_squares_have_their_size_and_reach_every_pixel() -> None:
    masks = squares(2000, (9, 12), 1 / 4, 0)
    assert set(masks.sum((1, 2)).tolist()) == {2 * 3.0}
    assert masks.any(0).all()
    assert torch.equal(masks, squares(2000, (9, 12), 1 / 4, 0))


def test_a_logit_that_never_moves_has_no_score() -> None:
    assert unexplained(torch.ones(1, 4), torch.zeros(1, 4)).isnan().all()
    assert unexplained(torch.zeros(1, 4), torch.ones(1, 4)).item() == 1
