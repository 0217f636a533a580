from __future__ import annotations

import pytest
import torch
from matplotlib import image
from torch.utils.data import TensorDataset

from benchmarks.figures.intervals import draw_intervals, family_looks, forest
from benchmarks.figures.paper import draw_paper_figures
from benchmarks.quality.measure import Column, Measure
from benchmarks.quality.method import Method
from benchmarks.quality.summary import Estimate, Row
from benchmarks.quality.task import Sample, Task
from captum_kmex.demo import DIGIT_LAYERS, SmallResNet


class Ours(Method):
    family = "captum_kmex"


class Theirs(Method):
    family = "rivals"


METHODS = {"B4": Ours, "theirs": Theirs, "broken": Theirs}
MEASURE = Measure(
    "m",
    "M",
    {"hits": Column("hits"), "cost": Column("cost", "low", False), "n": Column("n", "")},
    lambda _: {},
)


def rows(task="t"):
    return [
        Row(task, "theirs", "m", {"hits": Estimate(0.5, 0.4, 0.6, 9, 1)}),
        Row(task, "B4", "m", {k: Estimate(0.7, 0.6, 0.9, 9, 1) for k in MEASURE.columns}),
        Row(task, "broken", "m", {}, "gives no map"),
    ]


def test_a_figure_is_drawn_where_methods_can_be_compared(tmp_path):
    alone = [Row("alone", "B4", "m", rows()[1].estimates), rows("alone")[2]]
    found = draw_intervals([*rows(), *rows("u"), *alone], {"m": MEASURE}, METHODS, tmp_path / "new")
    assert [path.name for path in found] == ["t-m.png", "u-m.png"]
    assert image.imread(found[0]).std() > 0


def test_panels_are_the_columns_that_have_a_better_end_and_lines_go_from_best_to_worst():
    families = {name: method.family for name, method in METHODS.items()}
    figure = forest(rows()[:2], MEASURE, families, family_looks(families.values()))
    first, second = figure.axes
    assert first.get_title() == "hits (%)\n→ better"
    assert second.get_title() == "cost\n← better"
    assert [label.get_text() for label in first.get_yticklabels()] == ["B4", "theirs"]
    intervals = first.collections[0].get_segments()
    assert [x.tolist() for x in intervals] == [[[60, 0], [90, 0]], [[40, 1], [60, 1]]]
    marks = {line.get_label(): line.get_xydata().tolist() for line in first.lines}
    assert [[70, 0]] in marks.values()
    assert [[50, 1]] in marks.values()


@pytest.mark.bench
@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")
def test_figures_of_the_paper(tmp_path):
    torch.manual_seed(0)
    model = SmallResNet(2, 1, 4).eval()
    data = TensorDataset(torch.randn(40, 1, 8, 8), torch.arange(40) % 2)
    sample = Sample(*data[:4])
    layers, names, half = tuple(DIGIT_LAYERS), ("cat", "dog"), (0.5,)
    task = Task("t", "T", model, layers, names, data, data, lambda *_: sample, half, half)
    bare = Task("u", "U", model, layers, names, None, data, lambda *_: sample, half, half)
    found = draw_paper_figures([task, bare], tmp_path)
    names = ["figure1-t-B4.png", "figure1-t-B234.png", "figure2.png"]
    assert [path.name for path in found] == names
    assert all(image.imread(path).std() > 0 for path in found)
