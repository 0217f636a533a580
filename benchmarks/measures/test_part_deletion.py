from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.measures.formulas.ranks import spearman
from benchmarks.measures.formulas.toy import Explain, Given, answers_of, linear_net, task_of
from benchmarks.measures.part_deletion import MEASURES, top_hits
from benchmarks.quality.measure import Answers
from benchmarks.quality.method import UnavailableError

_DELETION, _PAIRS = MEASURES
_N, _P, _J = 60, 4, 5


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _scene(random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights, images, and parts that are stripes of the image."""
    weight = torch.randn(_J, 3, 8, 8, generator=random)
    parts = torch.zeros(_N, _P, 8, 8, dtype=torch.bool)
    for p in range(_P):
        parts[:, p, 2 * p : 2 * p + 2] = True
    return weight, torch.randn(_N, 3, 8, 8, generator=random), parts


def _answers(random: torch.Generator, explain: Explain | None = None) -> Answers:
    weight, x, parts = _scene(random)
    true = explain or (lambda x, target: (weight[target] * x).sum(1))
    without = x[:, None] * ~parts[:, :, None]
    task = task_of(linear_net(weight), _J)
    return answers_of(task, Given(true), x, parts=parts, without=without)


def test_part_deletion_of_a_linear_network_is_perfect_for_its_contributions(
    random: torch.Generator,
) -> None:
    found = _DELETION.score(_answers(random))
    for column in ("sum", "mean"):  # all parts have the same area
        assert torch.allclose(found[column], torch.ones(_N).double())
    assert found["top"].mean() == 1
    assert found["pooled"].item() == pytest.approx(1)


def test_part_deletion_of_a_random_map_is_near_chance(random: torch.Generator) -> None:
    chance = torch.randn(_N, 8, 8, generator=random)
    rows = iter(chance.split(8))
    found = _DELETION.score(_answers(random, lambda *_: next(rows)))
    assert abs(found["sum"].mean()) < 4 * found["sum"].std() / _N**0.5
    assert abs(found["top"].mean() - 1 / _P) < 0.25
    assert abs(found["pooled"]) < 0.25


def test_a_constant_map_knows_no_part(random: torch.Generator) -> None:
    found = _DELETION.score(_answers(random, lambda x, _: torch.ones(len(x), 8, 8)))
    assert found["sum"].tolist() == [0.0] * _N
    assert found["top"].tolist() == [1 / _P] * _N


def test_a_constant_map_gets_what_the_area_gets_by_its_sum_and_nothing_by_its_mean(
    random: torch.Generator,
) -> None:
    weight, _, parts = _scene(random)
    parts[:, 0, 1, :5] = parts[:, 1, 2, :7] = parts[:, 2, 4, :2] = False
    x = torch.ones(_N, 3, 8, 8)
    answers = answers_of(
        task_of(linear_net(weight.abs()), _J), Given(lambda x, _: 0.3 * x[:, 0]), x,
        parts=parts, without=x[:, None] * ~parts[:, :, None],
    )  # fmt: skip
    found = _DELETION.score(answers)
    assert torch.equal(found["sum"], found["area"])
    assert found["area"].mean() > 0.5
    assert found["mean"].tolist() == [0.0] * _N


def test_parts_that_are_not_there_do_not_count() -> None:
    a, b = torch.tensor([[1.0, 2.0, 3.0, 9.0]]), torch.tensor([[1.0, 2.0, 3.0, -9.0]])
    known = torch.tensor([[True, True, True, False]])
    assert spearman(a, b, known).item() == pytest.approx(1)
    assert top_hits(a, b, known).item() == 1
    alone = torch.tensor([[True, False, False, False]])
    assert spearman(a, b, alone).isnan().all()
    assert top_hits(a, b, alone).isnan().all()


def test_minimal_pairs_find_the_part_that_alone_differs(random: torch.Generator) -> None:
    _, x, parts = _scene(random)
    own = torch.randn(3, 8, 8, generator=random)
    weight = own.repeat(_P + 1, 1, 1, 1)
    for p in range(_P):  # class p + 1 differs from class 0 in part p
        weight[p + 1] -= parts[0, p] * x[0].sign()
    x = x[0].sign().repeat(_N, 1, 1, 1)
    task = task_of(linear_net(weight), _P + 1)
    partners = torch.arange(1, _P + 1).repeat(_N, 1)
    known = {"parts": parts, "partners": partners, "labels": torch.zeros(_N).long()}

    def hits(explain: Explain) -> list[float]:
        answers = answers_of(task, Given(explain), x, **known)
        values: list[float] = _PAIRS.score(answers)["hits"].tolist()
        return values

    assert hits(lambda x, target: (weight[target] * x).sum(1)) == [1.0] * _N
    assert hits(lambda x, _: x.sum(1)) == [1 / _P] * _N


def test_measures_of_parts_are_unavailable_without_parts(random: torch.Generator) -> None:
    weight, x, _ = _scene(random)
    answers = answers_of(task_of(linear_net(weight), _J), Given(lambda x, _: x[:, 0]), x)
    for measure in MEASURES:
        with pytest.raises(UnavailableError, match="part"):
            measure.score(answers)
