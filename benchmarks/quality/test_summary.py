from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.quality.cells import Cell
from benchmarks.quality.summary import compare, summarise


def cell(method, seed, **columns):
    return Cell("task", method, seed, scores={"measure": columns})


def test_means_are_over_images_and_seeds():
    cells = [cell("ours", 0, hits=[1, 0, 1, 1]), cell("ours", 1, hits=[1, 1, 1, None])]
    (row,) = summarise(cells, 200)
    found = row.estimates["hits"]
    assert found.mean == pytest.approx(6 / 7)
    assert (found.n_values, found.n_seeds) == (4, 2)
    assert found.low < found.mean < found.high <= 1


def test_interval_of_one_seed_is_that_of_a_normal_mean():
    values = np.random.default_rng(0).normal(size=400)
    (row,) = summarise([cell("ours", 0, score=values.tolist())], 2000)
    found = row.estimates["score"]
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_interval_covers_the_spread_of_seeds():
    cells = [cell("ours", seed, score=[float(seed)] * 50) for seed in range(3)]
    (row,) = summarise(cells, 5000)
    assert (row.estimates["score"].low, row.estimates["score"].high) == (0, 2)


def test_one_value_has_no_interval():
    (row,) = summarise([cell("ours", 0, score=[0.5])], 100)
    found = row.estimates["score"]
    assert (found.low, found.mean, found.high) == (0.5, 0.5, 0.5)


def test_reasons_stand_in_place_of_values():
    broken = Cell("task", "theirs", 0, reasons={"measure": "gives no map"})
    nothing = cell("other", 0, score=[None, None])
    rows = {row.method: row for row in summarise([broken, nothing], 10)}
    assert rows["theirs"].reason == "gives no map"
    assert rows["theirs"].estimates == rows["other"].estimates == {}


def test_differences_are_taken_image_by_image():
    noise = np.random.default_rng(0).normal(size=100)
    cells = [
        cell("ours", 0, score=(noise + 1).tolist()),
        cell("ours", 1, score=(noise + 2).tolist()),
        cell("theirs", 0, score=noise[:80].tolist()),  # a slow method explained fewer
        cell("theirs", 1, other=[1.0, 2.0]),
    ]
    found = compare(cells, "ours", "theirs", 100)
    assert list(found) == [("task", "measure", "score")]
    estimate = found["task", "measure", "score"]
    assert estimate.n_values == 80
    assert estimate.low == pytest.approx(1.5)
    assert estimate.high == pytest.approx(1.5)
