"""Concepts as detectors, against loops; and the measures' refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.measures.formulas.set_overlap import held_out, overlaps, united
from benchmarks.measures.formulas.toy import linear_net, task_of
from benchmarks.quality.measure import Answers
from benchmarks.quality.method import ConceptMaps, Method, UnavailableError
from benchmarks.quality.plugins import find_measures
from benchmarks.quality.presets import PRESETS
from benchmarks.quality.task import Sample


def _answers(method, parts):
    inputs = torch.zeros(len(parts), 1, *parts.shape[2:])
    sample = Sample(inputs, torch.zeros(len(parts), dtype=torch.long), parts=parts)
    task = task_of(linear_net(inputs[:2]), 2)
    return Answers(method, task, sample, PRESETS["test"], 0, lambda seed: method)


class _Given(Method):
    family, source = "given", "a test"

    def __init__(self, maps=None, segments=None, shared=True):
        self._maps, self._segments, self.shares_concepts = maps, segments, shared

    def concepts(self, inputs, targets):
        if self._maps is None:
            raise UnavailableError("gives no concept maps")
        return ConceptMaps(self._maps, torch.ones(self._maps.shape[:2]))

    def segments(self, inputs, targets):
        return self._segments


def test_overlaps_agree_with_a_loop_over_pixels():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(5, 3, 4, 6, generator=generator)
    parts = torch.rand(5, 2, 4, 6, generator=generator) > 0.6
    shares = (0.1, 0.5)
    found = overlaps(maps, parts, shares)
    for k in range(3):
        for s, share in enumerate(shares):
            threshold = np.quantile(maps[::2, k].numpy(), 1 - share)
            for half in (0, 1):
                for p in range(2):
                    mask = maps[half::2, k].numpy() >= np.float32(threshold)
                    part = parts[half::2, p].numpy()
                    both = sum(a and b for a, b in zip(mask.flat, part.flat, strict=True))
                    union = sum(a or b for a, b in zip(mask.flat, part.flat, strict=True))
                    assert found[half, k, s, p].item() == pytest.approx(both / union)


def test_a_threshold_covers_its_share_and_a_binary_map_is_left_alone():
    maps = torch.rand(4, 1, 20, 20)
    everywhere = torch.ones(4, 1, 20, 20, dtype=torch.bool)
    shares = overlaps(maps, everywhere, (0.005, 0.2))[0, 0, :, 0]
    torch.testing.assert_close(shares, torch.tensor([0.005, 0.2]).double(), atol=2e-3, rtol=0)
    binary = maps > 0.7
    found = overlaps(binary.float(), binary, (0.005, 0.2))
    torch.testing.assert_close(found, torch.ones_like(found))


def test_the_concept_is_chosen_on_one_half_and_scored_on_the_other():
    table = torch.tensor([[[[0.9, 0.1]], [[0.2, 0.6]]], [[[0.3, 0.8]], [[0.7, 0.5]]]])
    torch.testing.assert_close(held_out(table), torch.tensor([0.3, 0.5]))


def test_a_part_that_a_half_does_not_show_is_not_scored():
    parts = torch.zeros(4, 3, 5, 5, dtype=torch.bool)
    parts[::2, 0] = True  # never in the second half
    parts[1::2, 1] = True  # never in the first
    parts[:, 2, :2] = True
    found = held_out(overlaps(torch.rand(4, 2, 5, 5), parts, (0.1,)))
    assert found.isnan().tolist() == [True, True, False]


def test_a_union_puts_the_pieces_of_a_part_together_and_leaves_the_rest():
    parts = torch.zeros(6, 1, 8, 8, dtype=torch.bool)
    parts[:, 0, :4] = True
    pieces = torch.zeros(6, 4, 8, 8)
    pieces[:, 0, :4, :3] = pieces[:, 1, :4, 3:6] = pieces[:, 2, :4, 6:] = 1
    pieces[:, 3, 4:] = 1
    table = overlaps(pieces, parts, (1.0,))
    torch.testing.assert_close(held_out(table), torch.tensor([3 / 8]).double())
    torch.testing.assert_close(united(pieces, parts, (1.0,), table), torch.ones(1).double())
    alone = pieces[:, 3:]  # nothing of it is the part
    assert united(alone, parts, (1.0,), overlaps(alone, parts, (1.0,))) == 0


def test_a_union_is_grown_on_the_first_half():
    generator = torch.Generator().manual_seed(0)
    maps = (torch.rand(8, 5, 6, 6, generator=generator) > 0.7).float()
    parts = torch.rand(8, 1, 6, 6, generator=generator) > 0.5
    masks, part = maps[::2].bool(), parts[::2, 0]

    def iou(chosen, masks, part):
        union = torch.stack([masks[:, k] for k in chosen]).any(0)
        return float((union & part).sum() / (union | part).sum())

    chosen = []
    while len(chosen) < 5:
        others = [k for k in range(5) if k not in chosen]
        best = max(others, key=lambda k: iou([*chosen, k], masks, part))
        if chosen and iou([*chosen, best], masks, part) <= iou(chosen, masks, part):
            break
        chosen.append(best)
    found = united(maps, parts, (1.0,), overlaps(maps, parts, (1.0,)))
    expected = iou(chosen, maps[1::2].bool(), parts[1::2, 0])
    assert found.item() == pytest.approx(expected)


def test_perfect_concepts_and_perfect_segments_score_one():
    parts = torch.zeros(6, 2, 8, 8, dtype=torch.bool)
    parts[:, 0, :3, :3], parts[:, 1, 5:, 4:] = True, True
    measure = find_measures()["detectors"]
    by_maps = measure.score(_answers(_Given(maps=parts.float()), parts))
    segments = 7 * parts[:, 0].long() + 3 * parts[:, 1]  # numbers need not be in a row
    by_segments = measure.score(_answers(_Given(segments=segments), parts))
    for found in (by_maps, by_segments):
        for key in ("iou", "united", "fixed", "detected"):
            torch.testing.assert_close(found[key], torch.ones(2).double())
    assert (by_maps["concepts"], by_segments["concepts"]) == (2, 3)


def test_segments_of_single_images_and_tasks_without_parts_are_refused():
    measure = find_measures()["detectors"]
    parts = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    alone = _Given(segments=torch.zeros(2, 4, 4, dtype=torch.long), shared=False)
    with pytest.raises(UnavailableError, match="images share"):
        measure.score(_answers(alone, parts))
    answers = _answers(_Given(maps=parts.float()), parts)
    bare = Answers(
        answers.method,
        answers.task,
        Sample(answers.sample.inputs, answers.sample.targets),
        answers.preset,
        0,
        answers.refit,
    )
    with pytest.raises(UnavailableError, match="no part masks"):
        measure.score(bare)


def test_untested_concepts_have_no_significance():
    measure = find_measures()["concept_significance"]
    parts = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    with pytest.raises(UnavailableError, match="not tested"):
        measure.score(_answers(_Given(maps=parts.float()), parts))
