from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from benchmarks.measures.formulas.disturbances import compressed, turned
from benchmarks.measures.formulas.similarity import ssim, top_overlap
from benchmarks.measures.formulas.toy import Explain, Given, answers_of, linear_net, task_of
from benchmarks.measures.kept_stability import MEASURES, disturbed
from benchmarks.quality.measure import Answers

_N, _SIDE = 12, 28
_COLUMNS = ("fass", "structure", "order", "top")


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def _answers(random: torch.Generator, explain: Explain) -> Answers:
    x = torch.rand(_N, 1, _SIDE, _SIDE, generator=random)
    weight = torch.rand(2, 1, _SIDE, _SIDE, generator=random)
    weight[1] = -weight[0]  # every picture is of class 0, whatever is done to it
    return answers_of(task_of(linear_net(weight), 2), Given(explain), x)


def test_ssim_equals_that_of_scikit_image(random: torch.Generator) -> None:
    one, other = torch.rand(2, 4, 15, 17, generator=random).double()
    known = torch.ones(4, 15, 17, dtype=torch.bool)
    for a, b, value in zip(one, other, ssim(one, other, known, 5).tolist(), strict=True):
        a, b = ((m - m.min()) / (m.max() - m.min()) for m in (a, b))
        want = structural_similarity(
            a.numpy(), b.numpy(), win_size=5, data_range=1, use_sample_covariance=False
        )
        assert value == pytest.approx(want)


def test_ssim_looks_at_windows_of_what_is_known_alone(random: torch.Generator) -> None:
    one, other = torch.rand(2, 1, 12, 12, generator=random)
    known = torch.zeros(1, 12, 12, dtype=torch.bool)
    known[:, 2:9, 3:11] = True
    all_known = torch.ones(1, 7, 8, dtype=torch.bool)
    want = ssim(one[:, 2:9, 3:11], other[:, 2:9, 3:11], all_known, 3)
    assert torch.allclose(ssim(one, other, known, 3), want)


def test_top_overlap_equals_sets_where_nothing_ties(random: torch.Generator) -> None:
    one, other = torch.rand(2, 6, 8, 10, generator=random)
    known = torch.rand(6, 8, 10, generator=random) < 0.8
    found = top_overlap(one, other, known, 0.1).tolist()
    for a, b, k, value in zip(one, other, known, found, strict=True):
        size = round(0.1 * int(k.sum()))
        places = np.flatnonzero(k.flatten().numpy())
        tops = [set(places[np.argsort(-m.flatten().numpy()[places])[:size]]) for m in (a, b)]
        assert value == pytest.approx(len(tops[0] & tops[1]) / len(tops[0] | tops[1]))


def test_top_overlap_shares_places_among_ties() -> None:
    flat, peak = torch.zeros(1, 4, 5), torch.zeros(1, 4, 5)
    peak[0, 0, 0] = 1
    known = torch.ones(1, 4, 5, dtype=torch.bool)
    assert top_overlap(flat, flat, known, 0.1).item() == pytest.approx(1)
    # the peak counts 1 and 19 others 1/19 each, beside 20 that count 1/10 each
    want = (0.1 + 19 / 19) / (1 + 19 * 0.1)
    assert top_overlap(flat, peak, known, 0.1).item() == pytest.approx(want)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turning_by_quarters_equals_rot90(random: torch.Generator, quarters: int) -> None:
    x = torch.rand(3, 2, 9, 9, generator=random)
    want = torch.rot90(x, quarters, (2, 3))
    assert torch.allclose(turned(x, 90 * quarters), want, atol=1e-5)


def test_turning_there_and_back_changes_little_where_nothing_was_lost() -> None:
    rows = torch.linspace(0, 1, 32).sin()
    x = (rows[:, None] + rows)[None, None]
    seen = turned(turned(torch.ones_like(x), 15), -15) > 1 - 1e-3
    back = turned(turned(x, 15), -15)
    assert seen.double().mean() > 0.7
    assert (back - x)[seen].abs().max() < 0.01


def test_compression_is_what_pillow_does_and_keeps_the_shape(random: torch.Generator) -> None:
    for channels in (1, 3):
        flat = torch.full((2, channels, 16, 16), 0.4)
        assert torch.allclose(compressed(flat, 95), flat, atol=2 / 255)
        x = torch.rand(2, channels, 16, 16, generator=random)
        assert compressed(x, 40).shape == x.shape
        assert 0.01 < (compressed(x, 40) - x).abs().mean() < 0.5


def test_a_map_that_never_looks_is_perfectly_stable_but_for_turns(random: torch.Generator) -> None:
    ring = (torch.linspace(-1, 1, _SIDE)[:, None] ** 2 + torch.linspace(-1, 1, _SIDE) ** 2).neg()
    found = MEASURES[0].score(_answers(random, lambda x, _: ring.expand(len(x), -1, -1)))
    assert found["kept"].tolist() == [1.0] * _N
    assert all((found[key] > 0.98).all() for key in _COLUMNS[:3])


def test_a_random_map_is_near_chance(random: torch.Generator) -> None:
    found = MEASURES[0].score(
        _answers(random, lambda x, _: torch.rand(len(x), _SIDE, _SIDE, generator=random))
    )
    assert found["order"].mean().abs() < 0.03
    assert found["top"].mean() < 0.1
    mean = sum(found[key] for key in _COLUMNS[1:]) / 3
    assert torch.allclose(found["fass"], torch.as_tensor(mean))


def test_only_pictures_that_keep_their_prediction_are_explained(random: torch.Generator) -> None:
    asked: list[Tensor] = []

    def explain(x: Tensor, _: Tensor) -> Tensor:
        asked.append(x)
        return x[:, 0]

    # the class is whether the picture is brighter than it was before it was made so
    x = torch.rand(_N, 1, _SIDE, _SIDE, generator=random) * 0.5
    weight = torch.stack([torch.zeros(1, _SIDE, _SIDE), torch.ones(1, _SIDE, _SIDE)])
    net = linear_net(weight)
    net[1].bias = torch.nn.Parameter(torch.tensor([0.0, -0.3 * _SIDE**2]))
    answers = answers_of(task_of(net, 2), Given(explain), x)
    found = MEASURES[0].score(answers)
    stays = {name: net(p).argmax(1) == 0 for name, p in disturbed(x).items()}
    assert not stays["bright"].any()
    assert stays["jpeg"].all()
    want = torch.stack(list(stays.values())).double().mean(0)
    assert torch.equal(found["kept"], want)
    kept = sum(int(s.sum()) for s in stays.values())
    assert sum(map(len, asked)) == _N + kept


def test_stability_is_not_defined_where_no_prediction_stays(random: torch.Generator) -> None:
    answers = _answers(random, lambda x, _: x[:, 0])
    wrong = answers.sample.targets + 1
    other = answers_of(answers.task, answers.method, answers.sample.inputs, targets=wrong)
    found = MEASURES[0].score(other)
    assert found["kept"].tolist() == [0.0] * _N
    assert all(found[key].isnan().all() for key in _COLUMNS)
