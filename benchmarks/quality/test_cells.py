from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from benchmarks.quality.cells import Cell, run_cell
from benchmarks.quality.measure import Column, Measure
from benchmarks.quality.method import Method, UnavailableError
from benchmarks.quality.presets import PRESETS
from benchmarks.quality.task import Sample, Task

PRESET = dataclasses.replace(PRESETS["test"], passes=10)


class Brightness(Method):
    """A map of the picture itself, plus a number drawn when it was fitted."""

    family = "test"
    source = "here"
    fits = 0

    def fit(self, task, seed):
        type(self).fits += 1
        self.offset = torch.rand(())

    def maps(self, inputs, targets):
        assert len(inputs) <= 8
        return inputs.mean(1)[:, ::2, ::2] + self.offset

    def segments(self, inputs, targets):
        return (inputs[:, 0, ::2, ::2] > 0).long()


def a_task(count=20):
    sample = Sample(torch.randn(count, 3, 8, 8), torch.zeros(count, dtype=torch.int64))
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    names = ("a", "b")
    mean, std = (0.5,) * 3, (0.25,) * 3
    task = Task("t", "T", model, (), names, None, None, lambda *_: sample, mean, std)
    return task, sample


def a_measure(score, name="measure"):
    return {name: Measure(name, name, {"x": Column("x")}, score)}


def test_values_are_kept_and_not_measured_again(tmp_path):
    task, sample = a_task()
    path = tmp_path / "c.json"
    calls = []

    def score(answers):
        calls.append(1)
        return {"x": answers.maps.flatten(1).sum(1), "nan": torch.tensor([1.0, float("nan")])}

    run_cell(Cell("t", "m", 3), path, Brightness, task, sample, PRESET, a_measure(score))
    found = Cell.load(path)
    torch.manual_seed(3)
    expected = sample.inputs[:10].mean(1)[:, ::2, ::2] + torch.rand(())
    scores = torch.tensor(found.scores["measure"]["x"])
    torch.testing.assert_close(scores, expected.flatten(1).sum(1), rtol=1e-4, atol=1e-4)
    assert found.scores["measure"]["nan"] == [1.0, None]
    fits = Brightness.fits
    run_cell(found, path, Brightness, task, sample, PRESET, a_measure(score))
    assert (len(calls), Brightness.fits) == (1, fits)


def test_a_slow_method_explains_fewer_images(tmp_path):
    task, sample = a_task(40)

    class Quick(Brightness):
        passes = 0.5

    lengths = []

    def score(answers):
        lengths.append(len(answers.maps))
        return {}

    for method in (Quick, Brightness):
        run_cell(
            Cell("t", "m", 0),
            tmp_path / method.__name__,
            method,
            task,
            sample,
            PRESET,
            a_measure(score),
        )
    assert lengths == [20, 10]


def test_reasons_are_kept_and_failures_tried_again(tmp_path, capsys):
    task, sample = a_task()
    path = tmp_path / "c.json"
    broken = [True]

    def fails(answers):
        if broken[0]:
            raise ZeroDivisionError("no pixel\nat all")
        return {"x": torch.ones(2)}

    measures = a_measure(lambda a: {"x": a.concepts.importance}, "lacks") | a_measure(fails)
    run_cell(Cell("t", "m", 0), path, Brightness, task, sample, PRESET, measures)
    found = Cell.load(path)
    assert found.reasons["lacks"] == "gives no concept maps"
    assert found.reasons["measure"] == "failed: ZeroDivisionError: no pixel"
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert found.lacks(measures) == ["measure"]
    broken[0] = False
    run_cell(found, path, Brightness, task, sample, PRESET, measures)
    assert Cell.load(path).reasons == {"lacks": "gives no concept maps"}
    assert Cell.load(path).scores == {"measure": {"x": [1.0, 1.0]}}


def test_a_method_that_cannot_be_fitted_gives_the_reason_to_all(tmp_path):
    task, sample = a_task()

    class Needy(Brightness):
        def fit(self, task, seed):
            raise UnavailableError("needs training images")

    measures = a_measure(lambda a: {}) | a_measure(lambda a: {}, "other")
    run_cell(Cell("t", "m", 0), tmp_path / "c.json", Needy, task, sample, PRESET, measures)
    reason = "needs training images"
    assert Cell.load(tmp_path / "c.json").reasons == {"measure": reason, "other": reason}


def test_answers_are_brought_to_the_images_size(tmp_path):
    task, sample = a_task()

    def score(answers):
        assert answers.maps.shape == (10, 4, 4)
        assert answers.pixel_maps.shape == answers.pixel_segments.shape == (10, 8, 8)
        assert torch.equal(answers.pixel_segments[:, 1::2, 1::2], answers.segments)
        mean = answers.maps.mean((1, 2))
        torch.testing.assert_close(answers.pixel_maps.mean((1, 2)), mean)
        return {"x": torch.ones(3)}

    run_cell(Cell("t", "m", 0), tmp_path / "c", Brightness, task, sample, PRESET, a_measure(score))
    assert Cell.load(tmp_path / "c").scores["measure"]["x"] == [1, 1, 1]


def test_sample_and_pictures():
    task, sample = a_task()
    assert len(sample.first(3)) == 3
    assert sample.first(3).labels is None
    pictures = task.pictures(sample.inputs)
    expected = (sample.inputs * 0.25 + 0.5).clamp(0, 1)
    torch.testing.assert_close(pictures, expected)
    assert torch.equal(task.predicted(sample.inputs, 7), task.model(sample.inputs).argmax(1))
    with pytest.raises(UnavailableError, match="no surrogate"):
        Brightness().predict(sample.inputs)
