from __future__ import annotations

from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.measures.faithfulness import MEASURES, area, blurred, curve, road_hits
from benchmarks.measures.formulas.perturbation import n_steps, ranks
from benchmarks.measures.formulas.road import impute
from benchmarks.measures.formulas.toy import Given, answers_of, linear_net, task_of
from benchmarks.quality.task import Task

_DELETION, _ROAD = MEASURES


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _binary(weight: Tensor) -> Task:
    """Two classes, the second with logit 0: the first has probability sigmoid(<w, x>)."""
    return task_of(linear_net(torch.stack([weight, torch.zeros_like(weight)])), 2)


def _contributions(weight: Tensor) -> Given:
    """What each pixel adds to the logit of the target over that of the other class."""
    signs = torch.tensor([1.0, -1.0])
    return Given(lambda x, target: (x * weight).sum(1) * signs[target, None, None])


def test_ranks_put_the_largest_first_and_break_ties_alike_for_all_maps() -> None:
    maps = torch.tensor([[[1.0, 3.0], [2.0, 0.0]]])
    assert ranks(maps).tolist() == [[[2, 0], [1, 3]]]
    flat = ranks(torch.zeros(3, 4, 5))
    assert torch.equal(flat, ranks(torch.ones(3, 4, 5)))
    assert not torch.equal(flat[0], flat[1])
    assert torch.equal(flat.flatten(1).sort(1).values, torch.arange(20).expand(3, 20))


def test_ranks_refuse_maps_without_an_order() -> None:
    with pytest.raises(ValueError, match="NaN"):
        ranks(torch.tensor([[[1.0, torch.nan]]]))


def test_area_under_a_straight_line_is_its_middle() -> None:
    assert area(torch.linspace(1, 0, 7)[None].double()).item() == pytest.approx(0.5)


def test_curves_equal_a_loop_over_pixels(random: torch.Generator) -> None:
    x, maps = torch.randn(2, 3, 4, 5, generator=random), torch.randn(2, 4, 5, generator=random)
    weight = torch.randn(3, 4, 5, generator=random)
    task, soft = _binary(weight), blurred(x)
    found = _DELETION.score(
        answers_of(task, Given(lambda *_: maps), x, targets=torch.zeros(2).long())
    )

    def walk(start: Tensor, end: Tensor, order: list[int], one: int) -> float:
        now, points = start[one].clone(), []
        for step in range(7):
            for pixel in order[: round(20 * step / 6)]:
                now[:, pixel // 5, pixel % 5] = end[one, :, pixel // 5, pixel % 5]
            points.append(1 / (1 + np.exp(-float((now * weight).sum()))))
        return float(np.mean([(a + b) / 2 for a, b in pairwise(points)]))

    for one in range(2):
        order = np.argsort(-maps[one].flatten().numpy()).tolist()
        blank = torch.zeros_like(x)
        morf, lerf = walk(x, blank, order, one), walk(x, blank, order[::-1], one)
        assert found["deletion"][one].item() == pytest.approx(morf, abs=1e-6)
        assert found["between"][one].item() == pytest.approx(lerf - morf, abs=1e-6)
        insertion = walk(soft, x, order, one)
        assert found["insertion"][one].item() == pytest.approx(insertion, abs=1e-6)


def test_deletion_of_a_linear_network_is_best_in_the_order_of_its_contributions(
    random: torch.Generator,
) -> None:
    x, weight = (torch.randn(1, 2, 3, generator=random) for _ in range(2))
    task = _binary(weight)
    orders = torch.tensor(list(permutations(range(6)))).float().view(-1, 2, 3)
    many = x.expand(len(orders), 1, 2, 3)
    targets = torch.zeros(len(orders)).long()
    scores = _DELETION.score(answers_of(task, Given(lambda *_: orders), many, targets=targets))
    best = _DELETION.score(
        answers_of(task, _contributions(weight[None]), x[None], targets=targets[:1])
    )
    assert best["deletion"].item() == pytest.approx(scores["deletion"].min().item(), abs=1e-6)
    assert best["between"].item() == pytest.approx(scores["between"].max().item(), abs=1e-6)
    left = (x * weight).flatten().sort().values.double().cumsum(0)  # what the last pixels add
    closed = torch.cat([left.flip(0), torch.zeros(1).double()]).sigmoid()
    assert best["deletion"].item() == pytest.approx(area(closed[None]).item(), abs=1e-6)


def test_random_maps_are_near_chance_and_contributions_far_from_it(
    random: torch.Generator,
) -> None:
    x, weight = torch.randn(80, 1, 8, 8, generator=random), torch.randn(1, 8, 8, generator=random)
    task, chance = _binary(weight), torch.randn(80, 8, 8, generator=random)
    rows = iter(chance.split(8) * 2)  # maps are asked for in batches of eight, by each measure
    for measure, key in ((_DELETION, "between"), (_ROAD, "gap")):
        found = measure.score(answers_of(task, Given(lambda *_: next(rows)), x))[key]
        assert abs(found.mean()) < 4 * found.std() / 80**0.5
        best = measure.score(answers_of(task, _contributions(weight), x))[key]
        assert best.mean() > 0.5


def test_steps_are_halved_for_a_heavy_network() -> None:
    net = linear_net(torch.ones(2, 1, 2, 2))
    method, x = Given(lambda x, _: x[:, 0]), torch.ones(1, 1, 2, 2)
    assert n_steps(answers_of(task_of(net, 2), method, x)) == 6
    assert n_steps(answers_of(task_of(net, 2, weight=1.0), method, x)) == 3


def test_a_slow_method_is_scored_on_the_first_images_with_the_same_values(
    random: torch.Generator,
) -> None:
    x, weight = torch.randn(20, 1, 6, 6, generator=random), torch.randn(1, 6, 6, generator=random)
    task = _binary(weight)
    fast, slow = (Given(lambda x, _: x[:, 0], passes) for passes in (1.0, 1e9))
    for measure in MEASURES:
        whole, part = (measure.score(answers_of(task, method, x)) for method in (fast, slow))
        for key, values in whole.items():
            assert len(part[key]) == 4
            assert torch.allclose(values[:4], part[key])


def test_imputation_of_a_ramp_returns_the_ramp() -> None:
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(7.0), indexing="ij")
    ramps = torch.stack([2 * x - y, 3 + y])
    removed = torch.zeros(9, 7, dtype=torch.bool)
    removed[2:6, 1:6] = True
    assert torch.allclose(impute(ramps.masked_fill(removed, 99.0), removed), ramps, atol=1e-5)


def _impute_by_loop(image: NDArray[np.float64], gone: NDArray[np.bool_]) -> NDArray[np.float64]:
    _, h, w = image.shape
    matrix, right = np.eye(h * w), image.reshape(len(image), -1).T.copy()
    for y, x in zip(*np.nonzero(gone), strict=True):
        near = {
            (y + dy, x + dx): 1 / 6 if dy * dx == 0 else 1 / 12
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if (dy, dx) != (0, 0) and 0 <= y + dy < h and 0 <= x + dx < w
        }
        right[y * w + x] = 0
        for (b, a), weight in near.items():
            matrix[y * w + x, b * w + a] = -weight / sum(near.values())
    return np.asarray(np.linalg.solve(matrix, right)).T.reshape(image.shape)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.95])
def test_imputation_equals_a_dense_system_built_by_loops(
    share: float, random: torch.Generator
) -> None:
    image = torch.randn(3, 6, 8, generator=random)
    removed = torch.rand(6, 8, generator=random) < share
    expected = _impute_by_loop(image.double().numpy(), removed.numpy())
    assert np.allclose(impute(image, removed).numpy(), expected, atol=1e-5)


def test_imputation_without_a_pixel_left_raises() -> None:
    with pytest.raises(ValueError, match="at least one"):
        impute(torch.ones(1, 2, 2), torch.ones(2, 2, dtype=torch.bool))


def _quantus() -> Any:
    # its wheel asks for opencv-python, which clashes with the headless one of grad-cam
    return pytest.importorskip("quantus", reason="pip install --no-deps quantus cachetools")


def _tiny_net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
            nn.Linear(96, 4),
        ).eval()  # fmt: skip


def _judged(random: torch.Generator) -> tuple[Task, Tensor, Tensor, Tensor]:
    task, x = task_of(_tiny_net(), 4), torch.randn(5, 1, 12, 12, generator=random)
    return task, x, torch.randn(5, 12, 12, generator=random), task.predicted(x)


def test_imputation_agrees_with_quantus(random: torch.Generator) -> None:
    quantus = _quantus()
    image = torch.randn(3, 11, 9, generator=random)
    removed = torch.rand(11, 9, generator=random) < 0.7
    indices = np.flatnonzero(removed.numpy())
    judge = quantus.functions.perturb_func.noisy_linear_imputation
    judged = judge(image.double().numpy(), indices, noise=0.0)
    assert np.allclose(impute(image, removed).numpy(), judged, atol=1e-5)


def test_deletion_curve_agrees_with_pixel_flipping_of_quantus(random: torch.Generator) -> None:
    quantus = _quantus()
    task, x, maps, targets = _judged(random)
    judge = quantus.PixelFlipping(
        features_in_step=24, perturb_baseline=0.0, normalise=False, disable_warnings=True
    )
    judged = judge(
        model=task.model, x_batch=x.numpy(), y_batch=targets.numpy(),
        a_batch=maps[:, None].numpy(), softmax=True, device="cpu",
    )  # fmt: skip
    found = curve(task, x, torch.zeros_like(x), ranks(maps), targets, 6)
    assert np.allclose(found.numpy(), np.array(judged)[:, :5], atol=1e-5)


def test_road_agrees_with_quantus_without_noise(
    random: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantus = _quantus()
    task, x, maps, targets = _judged(random)
    shares = [0.25, 0.5, 0.75]
    judge = quantus.ROAD([100 * s for s in shares], 0.0, normalise=False, disable_warnings=True)
    judged = judge(
        model=task.model, x_batch=x.numpy(), y_batch=targets.numpy(),
        a_batch=maps[:, None].numpy(), device="cpu",
    )  # fmt: skip
    monkeypatch.setattr("benchmarks.measures.faithfulness._NOISE", 0.0)
    found = road_hits(task, x, ranks(maps), targets, shares).mean(0)
    assert found.tolist() == pytest.approx(list(judged.values()))
