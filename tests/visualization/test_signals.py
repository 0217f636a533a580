"""Figures of signals and volumes; what draws pictures alone says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import LAYERS, drawn_sided, make_sided
from torch.utils.data import TensorDataset

from captum_kmex import LayerKMeansAttribution
from captum_kmex.report import write_report
from captum_kmex.visualization.colors import segment_color
from captum_kmex.visualization.panels import density

LABELS = torch.arange(12) % 3
PANELS = {1: 3, 3: 7}  # without patches
sided = pytest.mark.parametrize("sides", [1, 3], ids=["signal", "volume"])
pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")


@pytest.fixture(scope="module")
def made():
    return {
        sides: LayerKMeansAttribution(make_sided(sides), LAYERS, n_prototypes=2).fit(
            [(drawn_sided(sides), LABELS)], n_init=1
        )
        for sides in (1, 3)
    }


@sided
@pytest.mark.parametrize("smooth", [False, True])
def test_plot_has_the_ledger_and_the_patches_of_four_segments(made, sides, smooth):
    x = drawn_sided(sides)
    result = made[sides].explain(x[:2])
    figure, axes = result.plot(1, smooth=smooth)
    assert len(axes) == PANELS[sides]
    assert axes[PANELS[sides] - 1].get_title().startswith("ledger: bias + segments = logit")
    figure, axes = result.plot(1, dataset=TensorDataset(x, LABELS))
    shown = sum(min(3, len(row.representatives)) for row in result.ledger[1][:4])
    assert len(axes) == PANELS[sides] + shown
    figure.canvas.draw()


def test_intervals_of_a_signal_have_the_colours_of_the_ledger(made):
    result = made[1].explain(drawn_sided(1)[:1])
    _, axes = result.plot()
    labels, ranks = result.segments[0], {row.segment: i for i, row in enumerate(result.ledger[0])}
    changes = np.flatnonzero(np.diff(labels.numpy())) + 1
    spans = axes[0].patches
    assert len(spans) == len(changes) + 1
    for start, span in zip([0, *changes], spans, strict=True):
        assert span.get_x() == pytest.approx(start - 0.5)
        expected = segment_color(ranks[int(labels[start])])
        assert span.get_facecolor()[:3] == pytest.approx(expected)


def test_evidence_of_a_signal_is_its_density(made):
    result = made[1].explain(drawn_sided(1)[:1], contrast=1)
    values = density(result.attribution[0])
    assert values.mean() == pytest.approx(float(result.attribution[0].sum()))
    _, axes = result.plot(smooth=False)
    found = [part.get_paths()[0].vertices[:, 1] for part in axes[1].collections]
    assert max(part.max() for part in found) == pytest.approx(max(values.max(), 0))
    assert min(part.min() for part in found) == pytest.approx(min(values.min(), 0))


def test_slices_of_a_volume_go_through_its_strongest_cell(made):
    result = made[3].explain(drawn_sided(3)[:1])
    _, axes = result.plot()
    values = density(result.attribution[0])
    for side in range(3):
        shown = axes[3 + side].images[0].get_array()
        slices = np.moveaxis(values, side, 0)
        assert any(np.allclose(shown, own) for own in slices)
        assert np.abs(shown).max() == pytest.approx(np.abs(values).max(), rel=1e-5)


@sided
def test_explanations_are_saved_and_show_themselves(made, sides, tmp_path):
    result = made[sides].explain(drawn_sided(sides)[:2])
    result.save(tmp_path / "explained")
    assert (tmp_path / "explained" / "0001.png").stat().st_size > 5000
    assert "data:image/png" in result._repr_html_()


@sided
def test_what_draws_pictures_alone_says_so(made, sides, tmp_path):
    x = drawn_sided(sides)
    result = made[sides].explain(x[:1])
    with pytest.raises(ValueError, match=r"signals and volumes are drawn by Explanation\.plot"):
        result.overlay()
    with pytest.raises(ValueError, match="image= is a picture, and no picture was explained"):
        result.plot(image=np.zeros((8, 8)))
    with pytest.raises(TypeError, match=r"Signals and volumes are drawn by Explanation\.plot"):
        write_report(made[sides], TensorDataset(x, LABELS), tmp_path / "report.html")


@sided
def test_concepts_are_crops_of_the_size_of_the_inputs(made, sides):
    x = drawn_sided(sides)
    concepts = made[sides].to_concepts(TensorDataset(x, LABELS), [0, 1])
    assert all(next(iter(concept.data_iter)).shape[1:] == x.shape[1:] for concept in concepts)
