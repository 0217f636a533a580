from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from benchmarks.measures.formulas.toy import Explain, Given, answers_of, linear_net, task_of
from benchmarks.measures.object_removal import MEASURES, above, foremost
from benchmarks.measures.part_overlap import MEASURES as OVERLAP
from benchmarks.measures.part_overlap import best_threshold_iou, part_ious
from benchmarks.quality.measure import Answers
from benchmarks.quality.method import UnavailableError

_REMOVAL, _OVERLAP = MEASURES[0], OVERLAP[0]
_N, _SIDE, _PARTS = 40, 12, 3


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def _answers(random: torch.Generator, explain: Explain, n_things: int = 6) -> Answers:
    """Things are stripes two pixels high; the class is made by the first three alone."""
    objects = torch.zeros(_N, n_things, _SIDE, _SIDE, dtype=torch.bool)
    for q in range(n_things):
        objects[:, q, 2 * q : 2 * q + 2] = True
    parts = objects[:, :_PARTS]
    weight = torch.zeros(2, 1, _SIDE, _SIDE)
    weight[0, 0, : 2 * _PARTS] = 1
    weight[1, 0, : 2 * _PARTS] = -1
    x = torch.rand(_N, 1, _SIDE, _SIDE, generator=random) + 0.5

    def redraw(gone: Tensor) -> Tensor:
        hidden = (objects[: len(gone)] & gone[:, :, None, None]).any(1)
        return torch.where(hidden[:, None], -1.0, x[: len(gone)])

    return answers_of(
        task_of(linear_net(weight), 2), Given(explain), x,
        parts=parts, masks=objects[:, : _PARTS + 1].any(1), objects=objects, redraw=redraw,
    )  # fmt: skip


def test_removal_is_perfect_for_the_contributions_of_a_linear_network(
    random: torch.Generator,
) -> None:
    def true(x: Tensor, _: Tensor) -> Tensor:
        maps = torch.zeros(len(x), _SIDE, _SIDE)
        maps[:, : 2 * _PARTS] = x[:, 0, : 2 * _PARTS]
        return maps

    found = _REMOVAL.score(_answers(random, true))
    for column in ("controlled", "deletion", "preservation", "ranked", "background"):
        assert found[column].tolist() == [1.0] * _N, column
    assert found["distracted"].tolist() == [0.0] * _N
    assert found["area"].tolist() == [0.5] * _N


def test_removal_is_worst_for_a_map_of_what_does_not_matter(random: torch.Generator) -> None:
    def wrong(x: Tensor, _: Tensor) -> Tensor:
        maps = torch.zeros(len(x), _SIDE, _SIDE)
        maps[:, 2 * _PARTS :] = 1
        return maps

    found = _REMOVAL.score(_answers(random, wrong))
    for column in ("controlled", "deletion", "preservation", "ranked"):
        assert found[column].tolist() == [0.0] * _N, column
    assert found["distracted"].tolist() == [1.0] * _N


def test_a_flat_map_gets_what_area_gets_and_guesses_among_equals(random: torch.Generator) -> None:
    found = _REMOVAL.score(_answers(random, lambda x, _: torch.ones(len(x), _SIDE, _SIDE)))
    assert torch.equal(found["ranked"], found["by_area"])
    assert torch.allclose(found["distracted"], found["area"])
    assert found["by_area"].tolist() == [0.5] * _N


def test_above_equals_the_area_under_the_roc_curve(random: torch.Generator) -> None:
    values = torch.randint(4, (20, 12), generator=random).double()
    kinds = torch.randint(3, (20, 12), generator=random)
    kinds[:, :2] = torch.tensor([0, 1])
    for i, value in enumerate(above(values, kinds == 0, kinds == 1).tolist()):
        asked = kinds[i] < 2
        want = roc_auc_score(kinds[i][asked] == 0, values[i][asked])
        assert value == pytest.approx(want)
    assert above(values, kinds == 0, kinds == 3).isnan().all()


def test_foremost_takes_so_many_and_none_that_is_not_there() -> None:
    values = torch.tensor([[3.0, 9.0, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0]])
    known = torch.tensor([[True, False, True, True], [False, False, False, True]])
    found = foremost(values, known, 2)
    assert found.tolist() == [[True, False, False, True], [False, False, False, True]]


def test_best_threshold_iou_equals_a_loop_over_thresholds(random: torch.Generator) -> None:
    maps = torch.randint(-3, 9, (8, 6, 7), generator=random).double()
    masks = torch.rand(8, 6, 7, generator=random) < 0.3
    found = best_threshold_iou(maps, masks).tolist()
    for map_, mask, value in zip(maps.numpy(), masks.numpy(), found, strict=True):
        ious = [((map_ >= t) & mask).sum() / ((map_ >= t) | mask).sum() for t in np.unique(map_)]
        assert value == pytest.approx(max(ious))


def test_a_flat_map_has_the_iou_of_the_whole_picture(random: torch.Generator) -> None:
    masks = torch.rand(8, 6, 7, generator=random) < 0.3
    flat = torch.full((8, 6, 7), 0.3)
    assert torch.allclose(best_threshold_iou(flat, masks), masks.double().mean((1, 2)))


def test_part_ious_equal_a_loop_over_segments(random: torch.Generator) -> None:
    segments = torch.randint(4, (5, 6, 6), generator=random)
    parts = torch.rand(5, 3, 6, 6, generator=random) < 0.3
    parts[0, 1] = False
    found = part_ious(segments, parts)
    assert found[0, 1].isnan()
    for i in range(5):
        for p in range(3):
            mask = parts[i, p]
            if mask.any():
                own = [segments[i] == s for s in segments[i].unique()]
                ious = [(s & mask).sum() / (s | mask).sum() for s in own]
                assert found[i, p].item() == pytest.approx(float(max(ious)))


def test_outlines_are_exact_for_maps_that_are_the_parts(random: torch.Generator) -> None:
    def parts_alone(x: Tensor, _: Tensor) -> Tensor:
        return (torch.arange(_SIDE) < 2 * _PARTS)[None, :, None].expand(len(x), -1, _SIDE).float()

    found = _OVERLAP.score(_answers(random, parts_alone))
    assert found["map"].tolist() == [1.0] * _N
    assert "segments" not in found


def test_measures_of_things_are_unavailable_without_them(random: torch.Generator) -> None:
    x = torch.rand(4, 1, 5, 5, generator=random)
    task = task_of(linear_net(torch.rand(2, 1, 5, 5, generator=random)), 2)
    answers = answers_of(task, Given(lambda x, _: x[:, 0]), x)
    for measure in (_REMOVAL, _OVERLAP):
        with pytest.raises(UnavailableError, match="parts"):
            measure.score(answers)
